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
gates_app = typer.Typer(help="Make, look into and check gate sidecars.", no_args_is_help=True)
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
    scope: o.Scope = "global",
    policy_seed: o.PolicySeed = 0,
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
        budget, buffer, gates, policy, scope, policy_seed, sinks, recent, min_per_head, lookahead, prefill, pin_system,
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
    scope: o.Scope = "global",
    policy_seed: o.PolicySeed = 0,
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
        budget, buffer, gates, policy, scope, policy_seed, sinks, recent, min_per_head, lookahead, prefill, pin_system,
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


@gates_app.command(
    "export",
    epilog="""Examples:

    retain-local gates export ngocbh/DBTrimKV-Qwen3-4B-Math Qwen3-4B.gates.gguf --base Qwen3-4B.gguf

    retain-local gates export trained/ model.gates.gguf --outtype q8_0""",
)
def gates_export(
    source: Annotated[
        str,
        typer.Argument(
            help="A PyTorch checkpoint of gates: a folder, a .pth or .safetensors with config.json beside it, or"
            " OWNER/REPO on the Hugging Face Hub.",
            metavar="SRC",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The sidecar to make.", metavar="OUT", show_default=False)],
    outtype: Annotated[str, typer.Option(help="Type of the weights: f32, f16 or q8_0.")] = "f16",
    base: Annotated[
        Path | None,
        typer.Option(
            help="The GGUF of the base model: checks that the gates fit it, and ties them to its vocabulary.",
            show_default=False,
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the repository.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it is there.")] = False,
) -> None:
    """Make a gate sidecar from a PyTorch checkpoint, without PyTorch; nothing in the checkpoint is run."""
    from retain_local.gates_commands import export_gates

    export_gates(source, out, outtype, base, revision, force)


@gates_app.command(
    "verify",
    epilog="""Examples:

    retain-local gates verify model.gates.gguf --base model.gguf

    retain-local gates verify model.gates.gguf --base model.gguf --checkpoint trained/ --text book.txt""",
)
def gates_verify(
    sidecar: Annotated[Path, typer.Argument(help="A gate sidecar.", metavar="SIDECAR", show_default=False)],
    base: Annotated[Path, typer.Option(help="The GGUF of its base model.", show_default=False)],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="The PyTorch checkpoint that the sidecar was made from, to compare with its weights."
            " (default: the sidecar's own)",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="Text to read; - is stdin. (default: a page of prose)", show_default=False)
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="How many tokens of the text to read.")] = 256,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Largest difference relative to log beta that passes."
            " (default: 1e-4 for weights in f32, 0.02 in f16, 0.5 in q8_0)",
            show_default=False,
        ),
    ] = None,
    threads: o.Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check that llama.cpp computes the gates as NumPy does, on hidden states of a text; fails if it does not."""
    from retain_local.gates_commands import verify_gates

    raise typer.Exit(verify_gates(sidecar, base, checkpoint, text, tokens, tolerance, threads, as_json))


@app.command()
def doctor() -> None:
    """Check the installation: libraries, versions, backends, CPU features; what is wrong, and how to mend it."""
    from retain_local.doctor import run_doctor

    raise typer.Exit(run_doctor())


def main() -> None:
    """Run the command line."""
    run_app(app)
