"""The commands of `retain-local gates`: arguments in, calls out, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..gates.calibrate.options import CalibrateOptions
from ..gates.train.options import TrainOptions
from . import options as o
from .help import command, show_help_alone
from .model_name import find_model, find_sidecar, names_gguf

gates_app = typer.Typer(
    help="Fetch, make, inspect and verify gates.",
    callback=show_help_alone,
    invoke_without_command=True,
    rich_markup_mode=None,
)


@command(
    gates_app,
    "inspect",
    "retain-local gates inspect model.gates.gguf --json",
)
def gates_inspect(
    file: Annotated[
        str,
        typer.Argument(
            help="The gate sidecar, or bundled, which is the one of the demo.", metavar="FILE", show_default=False
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show which model a gate sidecar is for, its sizes, and statistics of its weights layer by layer."""
    from .gates_export import show_sidecar

    show_sidecar(find_sidecar(file), as_json)


@command(
    gates_app,
    "list",
    "retain-local gates list",
    "retain-local gates list Qwen3-8B-Q4_K_M.gguf",
)
def gates_list(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model, named as for chat: show the gates for it alone.", metavar="[MODEL]", show_default=False
        ),
    ] = None,
    registry: Annotated[
        Path | None,
        typer.Option(
            help="A further list of published gates, a JSON file; its entries come first.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """Show which gates are published, for which models, and under which licence."""
    from .gates_published import list_gates

    list_gates(None if model is None else find_model(model)[0], registry, as_json)


@command(
    gates_app,
    "pull",
    "retain-local gates pull Qwen3-8B-Q4_K_M.gguf",
    "retain-local gates pull model.gguf --from nvidia/KVzap-linear-Qwen3-8B",
)
def gates_pull(
    model: Annotated[
        str,
        typer.Argument(
            help="The model that the gates are for, named as for chat.", metavar="MODEL", show_default=False
        ),
    ],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="The gates to fetch, OWNER/REPO or OWNER/REPO:FILE. (default: the first that `gates list MODEL` shows)",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The sidecar to write. (default: beside the model, where it is found)", show_default=False),
    ] = None,
    outtype: Annotated[str, typer.Option(help="The type of the weights: f32, f16 or q8_0.")] = "f16",
    revision: Annotated[
        str | None, typer.Option(help="The branch, tag or commit of the repository.", show_default=False)
    ] = None,
    registry: Annotated[
        Path | None,
        typer.Option(
            help="A further list of published gates, a JSON file; its entries come first.", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the sidecar if it exists.")] = False,
) -> None:
    """Fetch published gates for a model from the Hugging Face Hub and make its sidecar. Their licence is shown first."""
    from .gates_published import pull

    pull(find_model(model)[0], source, out, outtype, revision, registry, force)


@command(
    gates_app,
    "export",
    "retain-local gates export ngocbh/DBTrimKV-Qwen3-4B-Math Qwen3-4B.gates.gguf",
    "retain-local gates export trained/ model.gates.gguf --base model.gguf",
)
def gates_export(
    source: Annotated[
        str,
        typer.Argument(
            help="A PyTorch checkpoint of gates: a folder, a .pth or .safetensors with config.json beside it, or"
            " OWNER/REPO[:FILE] on the Hugging Face Hub.",
            metavar="SRC",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The sidecar to write.", metavar="OUT", show_default=False)],
    outtype: Annotated[str, typer.Option(help="The type of the weights: f32, f16 or q8_0.")] = "f16",
    base: Annotated[
        str | None,
        typer.Option(
            help="The GGUF file of the base model. The gates are checked against it and tied to its vocabulary. Some kinds"
            " of checkpoints need it.",
            show_default=False,
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="The branch, tag or commit of the repository.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
) -> None:
    """Make a gate sidecar from a PyTorch checkpoint. PyTorch is not needed, and no code in the checkpoint is run."""
    from .gates_export import export_gates

    export_gates(source, out, outtype, None if base is None else find_model(base)[0], revision, force)


@command(
    gates_app,
    "verify",
    "retain-local gates verify model.gates.gguf --base model.gguf",
    "retain-local gates verify m.gates.gguf --base m.gguf --checkpoint trained/",
)
def gates_verify(
    sidecar: Annotated[
        str,
        typer.Argument(
            help="The gate sidecar, or bundled, which is the one of the demo.", metavar="SIDECAR", show_default=False
        ),
    ],
    base: Annotated[str, typer.Option(help="The GGUF file of its base model, named as for chat.", show_default=False)],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="The PyTorch checkpoint that the sidecar was made from: compare with its weights instead of the sidecar's.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="The text to read; - is stdin. (default: a page of prose)", show_default=False)
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="How many tokens of the text to read.")] = 256,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="The largest difference, relative to log beta, that passes."
            " (default: 1e-4 for weights in f32, 0.02 in f16, 0.5 in q8_0)",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="How many CPU threads to use. (default: all CPUs)", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check on the hidden states of a text that llama.cpp computes the gates as NumPy does; exit with 1 if it does not."""
    from .gates_export import verify_gates

    raise typer.Exit(
        verify_gates(find_sidecar(sidecar), find_model(base)[0], checkpoint, text, tokens, tolerance, threads, as_json)
    )


@command(
    gates_app,
    "train",
    "retain-local gates train model.gguf trained/ --data chats.jsonl",
    "retain-local gates train Qwen/Qwen3-0.6B trained/ --data a.txt --data b.txt",
)
@o.takes(options=TrainOptions)
def gates_train(
    base: Annotated[
        str,
        typer.Argument(
            help="The base model: a GGUF file, named as for chat, or one in the layout of transformers, as a folder or"
            " OWNER/REPO on the Hugging Face Hub.",
            metavar="BASE",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            help="The folder for the checkpoint, the sidecar and the log. A training that was stopped resumes from it.",
            metavar="OUT",
            show_default=False,
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="What to train on: a text file, JSON lines with 'messages' or 'text', a folder of data files, or"
            " NAME[:SPLIT] of a data set on the Hub. It may be given several times.",
            metavar="SOURCE",
            show_default=False,
        ),
    ] = None,
    base_gguf: Annotated[
        str | None,
        typer.Option(
            help="The base model as a GGUF file. The sidecar is checked against it and tied to its vocabulary.",
            show_default=False,
        ),
    ] = None,
    outtype: Annotated[str, typer.Option(help="The type of the sidecar's weights: f32, f16 or q8_0.")] = "f16",
    *,
    options: TrainOptions,
) -> None:
    """Train gates for a model. The model is not changed. It needs PyTorch (pip install 'retain-local[train]').

    The gates learn which cells may fade: the model should still predict what it predicts with the full cache, and what
    is left should fit the budget (arXiv 2605.09649). A training that was stopped resumes with the same command.
    """
    from ..gates.train.screen import train

    if names_gguf(base):
        base = str(find_model(base)[0])
    train(base, out, data or [], options, None if base_gguf is None else find_model(base_gguf)[0], outtype)


@command(
    gates_app,
    "calibrate",
    "retain-local gates calibrate model.gguf",
    "retain-local gates calibrate model.gguf --text notes.txt --text code.py",
)
@o.takes(options=CalibrateOptions)
def gates_calibrate(
    model: o.Model,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="A UTF-8 file to calibrate on; may be given several times. (default: the program's own texts)",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The sidecar to write. (default: MODEL.gates.gguf beside the model)", show_default=False),
    ] = None,
    outtype: Annotated[str, typer.Option(help="The type of the sidecar's weights: f32, f16 or q8_0.")] = "f16",
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="How many CPU threads to use. (default: all CPUs)", show_default=False),
    ] = None,
    n_gpu_layers: Annotated[
        int, typer.Option("--gpu-layers", "-ngl", min=-1, help="How many layers to put on the GPU; -1 is all of them.")
    ] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the sidecar if it exists.")] = False,
    *,
    options: CalibrateOptions,
) -> None:
    """Make gates for a model from the GGUF alone, on this machine. PyTorch is not needed.

    The model reads texts and repeats them. What an eviction of each cell would change is measured, and the gates learn to
    foresee it from the cell's hidden state. A run that was stopped goes on with the same command.
    """
    from .gates_calibrate import run_calibrate

    run_calibrate(model, text or [], out, options, outtype, threads, n_gpu_layers, force)
