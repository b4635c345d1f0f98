"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

_MODEL, _CACHE, _SAMPLING, _MACHINE, _TASKS = "Model", "Cache", "Sampling", "Machine", "Generated tasks"

# parameters that --help leaves out, and --help-all shows
RARE = frozenset(
    # cache
    "buffer scope policy_seed sinks recent min_per_head lookahead prefill type_k type_v"
    # sampling
    " control_tokens_in_messages top_k top_p min_p repeat_penalty seed"
    # machine
    " rope_freq_base batch ubatch n_gpu_layers verbose"
    # eval and audit
    " cut facts decoys asked hops changes turns depth png worst store min_agreement"
    # bench
    " anyway repeat"
    # gates train
    " lr warmup untied gate_size start_bias capacity_weight kl_weight ce_weight loss dtype outtype".split()
)

Model = Annotated[
    str,
    typer.Argument(
        help="A GGUF file, OWNER/REPO[:FILE or QUANT] or an address on the Hugging Face Hub, or bundled.",
        metavar="MODEL",
        show_default=False,
    ),
]

Budget = Annotated[
    str | None,
    typer.Option(
        help="Cells kept for each (layer, KV head) on average: a number, a share of the context (1/4, 25%), the size of"
        " the whole cache (512MiB), or auto: what audit recommended."
        " (default: 2048, or the context where that is shorter or nothing is evicted)",
        rich_help_panel=_CACHE,
        show_default=False,
    ),
]
Buffer = Annotated[
    int | None,
    typer.Option(
        help="Tokens that may come in over the budget before an eviction runs. (default: as many as --ubatch)",
        rich_help_panel=_CACHE,
        show_default=False,
    ),
]
EvalBuffer = Annotated[
    int,
    typer.Option(
        "--buffer", help="Tokens that may come in over the budget before an eviction runs.", rich_help_panel=_CACHE
    ),
]
Gates = Annotated[
    str,
    typer.Option(
        help="Gate sidecar; auto: MODEL.gates.gguf if it is there; none: without gates.",
        rich_help_panel=_CACHE,
    ),
]
Policy = Annotated[
    str,
    typer.Option(
        help="What is kept: gate (by learned scores), window (the first and the most recent tokens), knorm (keys of low"
        " norm), keydiff (keys unlike the mean key), snapkv (what the last queries attend to), random, none (all is"
        " kept), or auto (gate with gates, window without).",
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
ControlTokens = Annotated[
    bool,
    typer.Option(
        "--control-tokens-in-messages",
        help="Take control tokens such as <|im_end|> in messages for what they are; else they are text there.",
    ),
]
TypeK = Annotated[str, typer.Option(help="Type of K: f32, f16, bf16, q8_0 or q4_0.", rich_help_panel=_CACHE)]
TypeV = Annotated[str, typer.Option(help="Type of V: as for K.", rich_help_panel=_CACHE)]

Context = Annotated[
    int, typer.Option("--ctx", help="Tokens of context; 0: what the model was trained for.", rich_help_panel=_MACHINE)
]
RopeFreqBase = Annotated[
    float,
    typer.Option(
        min=0,
        help="Base frequency of RoPE; 0: the model's own. A higher one lets a model read further than it was trained to.",
        rich_help_panel=_MACHINE,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="CPU threads. (default: 1 for a model of less than 32 MB, else the machine's)",
        rich_help_panel=_MACHINE,
        show_default=False,
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(
        help="Tokens handed over at once. (default: 512, or --ubatch where that is more)",
        rich_help_panel=_MACHINE,
        show_default=False,
    ),
]
UBatch = Annotated[
    int | None,
    typer.Option(
        help="Tokens computed at once; the cache has room for them beside the budget. (default: a quarter of the budget or"
        " less: 32, 64, 128, 256 or 512)",
        rich_help_panel=_MACHINE,
        show_default=False,
    ),
]
EvalUBatch = Annotated[int, typer.Option("--ubatch", help="Tokens computed at once.", rich_help_panel=_MACHINE)]
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

Tasks = Annotated[
    str,
    typer.Option(
        help="What to ask, comma-separated: generated tasks (single, several, hops2, hops3, changes, superseded, decoys,"
        " counting, copying, lookup), benchmarks as BENCHMARK[/TASK][:FILE] (longbench, longbench_v2, scbench, ruler, gsm8k),"
        " or text:FILE, which is read and compared with the full cache token by token."
    ),
]
Policies = Annotated[
    str,
    typer.Option(
        help="What to compare with the full cache, comma-separated: POLICY or POLICY:SCOPE, as gate, gate:head, window."
        " (default: gate where the model has gates, window, random)",
        show_default=False,
    ),
]
Budgets = Annotated[
    str,
    typer.Option(
        help="Cells for each (layer, KV head) on average, comma-separated: shares of the prompt (1/8, 10%) or numbers."
    ),
]
EvalContext = Annotated[
    int,
    typer.Option(
        "--ctx",
        help="Tokens of context; 0: as many as the task takes, up to what the model was trained for.",
        rich_help_panel=_MACHINE,
    ),
]
EvalThreads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="CPU threads of each job. (default: 1 for a model of less than 32 MB, else the machine's, shared by the"
        " jobs)",
        rich_help_panel=_MACHINE,
        show_default=False,
    ),
]


def _parameter(name: str, meaning: str) -> Any:
    return Annotated[
        int | None,
        typer.Option(
            f"--{name}", help=f"{meaning} (default: the task's own)", rich_help_panel=_TASKS, show_default=False
        ),
    ]


TaskTokens = _parameter(
    "tokens", "Length of the text, in words and punctuation marks; of text:FILE, of a window, in tokens."
)
TaskFacts = _parameter("facts", "Facts that are asked for.")
TaskDecoys = _parameter("decoys", "Look-alikes that are not asked for.")
TaskAsked = _parameter("asked", "Facts that one question asks for.")
TaskHops = _parameter("hops", "Facts that one answer needs, one after the other.")
TaskChanges = _parameter("changes", "Most changes of one fact.")
TaskTurns = _parameter("turns", "Messages that the text is split into.")
TaskDepth = _parameter("depth", "Percent of the text before what is asked for, which otherwise is scattered.")

Report = Annotated[
    Path | None,
    typer.Option(
        "--report",
        help="Write an HTML page with tables and pictures to this file; needs pip install 'retain-local[report]'.",
        show_default=False,
    ),
]
Png = Annotated[
    Path | None, typer.Option("--png", help="Write the pictures of the report to this folder.", show_default=False)
]

AuditText = Annotated[
    list[Path],
    typer.Option(
        "--text",
        help="UTF-8 text to read; - is stdin. Give several for several texts, as in --text chapters/*.txt.",
        metavar="FILE...",
        show_default=False,
    ),
]
MoreTexts = Annotated[
    list[Path] | None, typer.Argument(help="More texts, after --text.", metavar="[FILE...]", show_default=False)
]
AuditBudgets = Annotated[
    str,
    typer.Option(
        "--budgets",
        help="Cells for each (layer, KV head) on average, comma-separated: shares of each text (1/8, 10%) or numbers.",
    ),
]
MaxKL = Annotated[
    float | None,
    typer.Option(
        "--max-kl",
        help="Recommend the smallest budget whose mean KL is at most this, in nats."
        " (default: 0.05, unless --min-agreement is given)",
        show_default=False,
    ),
]
MinAgreement = Annotated[
    float | None,
    typer.Option(
        help="Recommend the smallest budget where at least this share (0 to 1) of the likeliest tokens stays the same.",
        show_default=False,
    ),
]
Window = Annotated[
    int | None,
    typer.Option(
        help="Cut each text into windows of at most this many tokens, each read from an empty cache. (default: whole)",
        show_default=False,
    ),
]
AuditUBatch = Annotated[
    int,
    typer.Option(
        "--ubatch",
        min=1,
        help="Tokens computed at once, with evictions between. With no more than --buffer, every token sees as few"
        " cells as one that is written.",
        rich_help_panel=_MACHINE,
    ),
]
