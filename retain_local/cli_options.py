"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

_MODEL, _CACHE, _SAMPLING, _MACHINE = "Model", "Cache", "Sampling", "Machine"

Model = Annotated[
    str,
    typer.Argument(
        help="A GGUF file, or OWNER/REPO[:FILE or QUANT] on the Hugging Face Hub.", metavar="MODEL", show_default=False
    ),
]

Budget = Annotated[
    str | None,
    typer.Option(
        help="Cells kept for each (layer, KV head) on average: a number, a share of the context (25%), or the size of"
        " the whole cache (512MiB). (default: 2048, or the context where that is shorter or nothing is evicted)",
        rich_help_panel=_CACHE,
        show_default=False,
    ),
]
Buffer = Annotated[
    int, typer.Option(help="Tokens that may come in over the budget before an eviction runs.", rich_help_panel=_CACHE)
]
Gates = Annotated[
    str,
    typer.Option(
        help="Gate sidecar; auto: MODEL.gates.gguf beside the model if it is there; none: without gates.",
        rich_help_panel=_CACHE,
    ),
]
Policy = Annotated[
    str,
    typer.Option(
        help="gate: learned scores; window: the first and the most recent tokens; random: a sample;"
        " none: never evict;"
        " auto: gate with gates, window without.",
        rich_help_panel=_CACHE,
    ),
]
Scope = Annotated[
    str,
    typer.Option(
        help="Which cells compete for the budget: global: all of the model; layer: those of a layer;"
        " head: those of a (layer, KV head).",
        rich_help_panel=_CACHE,
    ),
]
PolicySeed = Annotated[int, typer.Option(help="Seed of the policy random.", rich_help_panel=_CACHE)]
Sinks = Annotated[int, typer.Option(help="First positions that are never evicted.", rich_help_panel=_CACHE)]
Recent = Annotated[int, typer.Option(help="Last positions that are never evicted.", rich_help_panel=_CACHE)]
MinPerHead = Annotated[int, typer.Option(help="Cells that every (layer, KV head) keeps.", rich_help_panel=_CACHE)]
Lookahead = Annotated[int, typer.Option(help="Tokens that the retention score looks ahead.", rich_help_panel=_CACHE)]
Prefill = Annotated[
    str,
    typer.Option(
        help="bounded: evict while the prompt is read; full: read all of it first, in as much memory as it takes.",
        rich_help_panel=_CACHE,
    ),
]
PinSystem = Annotated[
    bool, typer.Option("--pin-system", help="Never evict the system message.", rich_help_panel=_CACHE)
]
TypeK = Annotated[str, typer.Option(help="Type of K: f32, f16, bf16, q8_0 or q4_0.", rich_help_panel=_CACHE)]
TypeV = Annotated[str, typer.Option(help="Type of V: as for K.", rich_help_panel=_CACHE)]

Context = Annotated[
    int, typer.Option("--ctx", help="Tokens of context; 0: what the model was trained for.", rich_help_panel=_MACHINE)
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="CPU threads. (default: from the machine)", rich_help_panel=_MACHINE, show_default=False),
]
Batch = Annotated[int, typer.Option(help="Tokens handed over at once.", rich_help_panel=_MACHINE)]
UBatch = Annotated[int, typer.Option(help="Tokens computed at once.", rich_help_panel=_MACHINE)]
GpuLayers = Annotated[
    int, typer.Option("--n-gpu-layers", help="Layers on the GPU; -1: all of them.", rich_help_panel=_MACHINE)
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show what llama.cpp logs.", rich_help_panel=_MACHINE)]

Temp = Annotated[float, typer.Option(help="Temperature; 0: always the likeliest token.", rich_help_panel=_SAMPLING)]
TopK = Annotated[int, typer.Option(help="Draw from the K likeliest tokens; 0: from all.", rich_help_panel=_SAMPLING)]
TopP = Annotated[float, typer.Option(help="Draw from the tokens that make up this much.", rich_help_panel=_SAMPLING)]
MinP = Annotated[
    float,
    typer.Option(help="Draw from tokens at least this likely, compared to the likeliest.", rich_help_panel=_SAMPLING),
]
RepeatPenalty = Annotated[float, typer.Option(help="Penalty of recent tokens; 1: none.", rich_help_panel=_SAMPLING)]
Seed = Annotated[
    int | None,
    typer.Option(
        help="Seed of the sampling. (default: another one each time)", rich_help_panel=_SAMPLING, show_default=False
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        help="Tokens to write at most. (default: until the model ends)", rich_help_panel=_SAMPLING, show_default=False
    ),
]

System = Annotated[str, typer.Option(help="System message.", show_default=False)]
