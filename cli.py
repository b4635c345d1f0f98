"""The command line: arguments in, calls out, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retain_local import cli_options as o
from retain_local.cli_main import run_app

app = typer.Typer(
    name="retain-local",
    help="Run GGUF models with a KV cache of fixed size.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
gates_app = typer.Typer(help="Look into gate sidecars.", no_args_is_help=True)
app.add_typer(gates_app, name="gates")


@app.command(
    epilog="""Examples:

    retain-local chat model.gguf --budget 2048

    retain-local chat Qwen/Qwen3-4B-GGUF:Q4_K_M --budget 25% --system "Answer in one line." --pin-system

    echo "What is the capital of France?" | retain-local chat model.gguf --temp 0"""
)
def chat(
    model: o.Model,
    system: o.System = "",
    budget: o.Budget = None,
    buffer: o.Buffer = 128,
    gates: o.Gates = "auto",
    policy: o.Policy = "auto",
    sinks: o.Sinks = 4,
    recent: o.Recent = 0,
    min_per_head: o.MinPerHead = 0,
    lookahead: o.Lookahead = 1,
    prefill: o.Prefill = "bounded",
    pin_system: o.PinSystem = False,
    type_k: o.TypeK = "f16",
    type_v: o.TypeV = "f16",
    temp: o.Temp = 0.8,
    top_k: o.TopK = 40,
    top_p: o.TopP = 0.95,
    min_p: o.MinP = 0.05,
    repeat_penalty: o.RepeatPenalty = 1.0,
    seed: o.Seed = None,
    max_tokens: o.MaxTokens = None,
    ctx: o.Context = 0,
    threads: o.Threads = None,
    batch: o.Batch = 512,
    ubatch: o.UBatch = 512,
    n_gpu_layers: o.GpuLayers = 0,
    verbose: o.Verbose = False,
) -> None:
    """Chat with a model, whose cache never outgrows the budget.

    Enter sends, Alt+Enter or a backslash at the end of a line begins a new one, Ctrl-C stops a reply, Ctrl-D leaves,
    /help lists the commands. When stdin is not a terminal each line of it is a message. A model without a chat
    template gets plain lines that begin with "User:" and "Assistant:".
    """
    from retain_local.generation import Sampling
    from retain_local.loading import LoadOptions, load_model

    sampling = Sampling(temp, top_k, top_p, min_p, repeat_penalty, seed, max_tokens)
    options = LoadOptions(
        budget, buffer, gates, policy, sinks, recent, min_per_head, lookahead, prefill, pin_system,
        ctx, threads, batch, ubatch, type_k, type_v, n_gpu_layers, verbose,
    )  # fmt: skip
    llm = load_model(model, options)

    from retain_local.chat_ui import ChatUI
    from retain_local.session import Session

    raise typer.Exit(ChatUI(Session(llm, system, sampling)).run())


@app.command(
    epilog="""Examples:

    retain-local run model.gguf -p "Once upon a time" --max-tokens 100

    retain-local run model.gguf -f book.txt --budget 512MiB --json

    cat question.txt | retain-local run model.gguf --chat"""
)
def run(
    model: o.Model,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="The prompt.", show_default=False)] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", help="A file with the prompt; - is stdin, as is neither -p nor -f.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object: text, times, cache.")] = False,
    chat: Annotated[bool, typer.Option("--chat", help="The prompt is a user message, for the chat template.")] = False,
    system: o.System = "",
    budget: o.Budget = None,
    buffer: o.Buffer = 128,
    gates: o.Gates = "auto",
    policy: o.Policy = "auto",
    sinks: o.Sinks = 4,
    recent: o.Recent = 0,
    min_per_head: o.MinPerHead = 0,
    lookahead: o.Lookahead = 1,
    prefill: o.Prefill = "bounded",
    pin_system: o.PinSystem = False,
    type_k: o.TypeK = "f16",
    type_v: o.TypeV = "f16",
    temp: o.Temp = 0.8,
    top_k: o.TopK = 40,
    top_p: o.TopP = 0.95,
    min_p: o.MinP = 0.05,
    repeat_penalty: o.RepeatPenalty = 1.0,
    seed: o.Seed = None,
    max_tokens: o.MaxTokens = None,
    ctx: o.Context = 0,
    threads: o.Threads = None,
    batch: o.Batch = 512,
    ubatch: o.UBatch = 512,
    n_gpu_layers: o.GpuLayers = 0,
    verbose: o.Verbose = False,
) -> None:
    """Complete one prompt: the text goes to stdout, a line about speed and cache to stderr."""
    from retain_local.generation import Sampling
    from retain_local.loading import LoadOptions, load_model
    from retain_local.prompt_text import read_prompt

    if system and not chat:
        raise typer.BadParameter("a system message needs --chat", param_hint="--system")
    text = read_prompt(prompt, file)
    sampling = Sampling(temp, top_k, top_p, min_p, repeat_penalty, seed, max_tokens)
    options = LoadOptions(
        budget, buffer, gates, policy, sinks, recent, min_per_head, lookahead, prefill, pin_system,
        ctx, threads, batch, ubatch, type_k, type_v, n_gpu_layers, verbose,
    )  # fmt: skip
    llm = load_model(model, options)

    from retain_local.run_prompt import run_prompt

    run_prompt(llm, text, sampling, chat=chat, system=system, as_object=as_json)


@app.command(epilog="Example: retain-local demo --budget 32")
def demo(
    budget: Annotated[int, typer.Option(help="Cells for each (layer, KV head) of the small cache.")] = 64,
    tokens: Annotated[int, typer.Option(help="Length of the text.")] = 512,
    seed: Annotated[int, typer.Option(help="Another text, the same for the same seed.")] = 0,
) -> None:
    """Read a text with the bundled model, with a full cache and with small ones, and ask for the facts in it."""
    from retain_local.demo import run_demo

    run_demo(budget=budget, document_tokens=tokens, seed=seed)


@gates_app.command("inspect", epilog="Example: retain-local gates inspect model.gates.gguf --json")
def gates_inspect(
    file: Annotated[Path, typer.Argument(help="A gate sidecar.", metavar="FILE", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a gate sidecar holds: for which model, its sizes, and its numbers layer by layer."""
    from retain_local.inspection import show_sidecar

    show_sidecar(file, as_json)


@app.command()
def doctor() -> None:
    """Check the installation: libraries, versions, backends, CPU features; what is wrong, and how to mend it."""
    from retain_local.doctor import run_doctor

    raise typer.Exit(run_doctor())


def main() -> None:
    """Run the command line."""
    run_app(app)
