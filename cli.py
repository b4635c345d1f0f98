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
    rope_freq_base: o.RopeFreqBase = 0.0,
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
        ctx, threads, batch, ubatch, type_k, type_v, n_gpu_layers, verbose, rope_freq_base,
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
    rope_freq_base: o.RopeFreqBase = 0.0,
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
        ctx, threads, batch, ubatch, type_k, type_v, n_gpu_layers, verbose, rope_freq_base,
    )  # fmt: skip
    llm = load_model(model, options)

    from retain_local.run_prompt import run_prompt

    run_prompt(llm, text, sampling, chat=chat, system=system, as_object=as_json)


@app.command(
    "eval",
    epilog="""Examples:

    retain-local eval bundled --tasks single,hops2 --budgets 1/4,1/8,1/16 --items 200

    retain-local eval model.gguf --policies gate,gate:head,window --budgets 512,1024 --json results.jsonl""",
)
def evaluate(
    model: o.EvalModel,
    tasks: o.Tasks = "single,several,hops2,changes,lookup",
    policies: o.Policies = "",
    budgets: o.Budgets = "1/2,1/4,1/8,1/16",
    scope: o.Scope = "global",
    items: Annotated[int, typer.Option(help="Questions of each task.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the texts: another seed, other texts.")] = 0,
    json: Annotated[
        Path | None,
        typer.Option(
            help="Write every result to this file as it comes; a file that is there is gone on with.",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that measure at the same time.")] = 1,
    cut: Annotated[
        bool, typer.Option("--cut", help="Cut the middle out of prompts of benchmarks that are too long.")
    ] = False,
    tokens: o.TaskTokens = None,
    facts: o.TaskFacts = None,
    decoys: o.TaskDecoys = None,
    asked: o.TaskAsked = None,
    hops: o.TaskHops = None,
    changes: o.TaskChanges = None,
    turns: o.TaskTurns = None,
    depth: o.TaskDepth = None,
    buffer: o.Buffer = 16,
    gates: o.Gates = "auto",
    policy_seed: o.PolicySeed = 0,
    sinks: o.Sinks = 4,
    recent: o.Recent = 0,
    min_per_head: o.MinPerHead = 0,
    lookahead: o.Lookahead = 1,
    prefill: o.Prefill = "bounded",
    type_k: o.TypeK = "f16",
    type_v: o.TypeV = "f16",
    ctx: o.EvalContext = 0,
    threads: o.EvalThreads = None,
    ubatch: o.UBatch = 64,
    n_gpu_layers: o.GpuLayers = 0,
    verbose: o.Verbose = False,
) -> None:
    """Ask a model the same questions with a full cache and with small ones, and compare the answers."""
    from retain_local.evaluation.command import EvalOptions, run_eval

    parameters = {
        "n_tokens": tokens, "n_facts": facts, "n_decoys": decoys, "n_asked": asked, "n_hops": hops,
        "n_changes": changes, "n_turns": turns, "depth": depth,
    }  # fmt: skip
    load = {
        "buffer": buffer, "gates": gates, "policy_seed": policy_seed, "sinks": sinks, "recent": recent,
        "min_per_head": min_per_head, "lookahead": lookahead, "prefill": prefill, "type_k": type_k, "type_v": type_v,
        "n_ctx": ctx, "threads": threads, "n_ubatch": ubatch, "n_gpu_layers": n_gpu_layers, "verbose": verbose,
    }  # fmt: skip
    run_eval(model, EvalOptions(tasks, policies, budgets, scope, items, seed, json, jobs, cut, parameters, load))


@app.command(
    epilog="""Examples:

    retain-local results results.jsonl --markdown

    retain-local results tied.jsonl untied=untied.jsonl"""
)
def results(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Files that eval --json wrote, each as FILE or LABEL=FILE: a label tells its arms from the others'.",
            metavar="FILE...",
            show_default=False,
        ),
    ],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables in Markdown.")] = False,
) -> None:
    """Show the results of evaluations again, those of several files in the same tables."""
    from retain_local.evaluation.command import show_results

    show_results(files, markdown)


@app.command(
    epilog="""Examples:

    retain-local audit model.gguf --text book.txt

    retain-local audit model.gguf --text chapters/*.txt --budgets 512,1024,2048 --min-agreement 0.95 --json audit.json

    retain-local audit model.gguf --text logs.txt --policy window --window 8192"""
)
def audit(
    model: o.Model,
    text: o.AuditText,
    more: o.MoreTexts = None,
    budgets: o.AuditBudgets = "1/2,1/4,1/8,1/16",
    max_kl: o.MaxKL = None,
    min_agreement: o.MinAgreement = None,
    window: o.Window = None,
    worst: Annotated[int, typer.Option(min=0, max=100, help="Worst places to show for each budget.")] = 3,
    json: Annotated[
        Path | None,
        typer.Option(help="Write all numbers and the text, token by token, to this file.", show_default=False),
    ] = None,
    store: Annotated[bool, typer.Option(help="Keep the recommendation for --budget auto.")] = True,
    buffer: o.Buffer = 128,
    gates: o.Gates = "auto",
    policy: o.Policy = "auto",
    scope: o.Scope = "global",
    policy_seed: o.PolicySeed = 0,
    sinks: o.Sinks = 4,
    recent: o.Recent = 0,
    min_per_head: o.MinPerHead = 0,
    lookahead: o.Lookahead = 1,
    type_k: o.TypeK = "f16",
    type_v: o.TypeV = "f16",
    ctx: o.Context = 0,
    rope_freq_base: o.RopeFreqBase = 0.0,
    threads: o.Threads = None,
    ubatch: o.AuditUBatch = 128,
    n_gpu_layers: o.GpuLayers = 0,
    verbose: o.Verbose = False,
) -> None:
    """Measure what eviction costs on your own text, and recommend a budget or none.

    Each text is read once with the full cache and once for each budget; next-token distributions are compared token by
    token. The exit status is 2 when no budget is within the bound.
    """
    from retain_local.audit.command import AuditOptions, run_audit
    from retain_local.loading import LoadOptions

    load = LoadOptions(
        buffer=buffer, gates=gates, policy=policy, scope=scope, policy_seed=policy_seed, sinks=sinks, recent=recent,
        min_per_head=min_per_head, lookahead=lookahead, n_ctx=ctx, n_threads=threads, n_ubatch=ubatch, type_k=type_k,
        type_v=type_v, n_gpu_layers=n_gpu_layers, verbose=verbose, rope_freq_base=rope_freq_base,
    )  # fmt: skip
    texts = [*text, *(more or [])]
    raise typer.Exit(
        run_audit(model, AuditOptions(texts, budgets, max_kl, min_agreement, window, worst, json, store), load)
    )


@app.command(epilog="Example: retain-local demo --budget 32")
def demo(
    budget: Annotated[int, typer.Option(help="Cells for each (layer, KV head) of the small cache.")] = 64,
    tokens: Annotated[int, typer.Option(help="Length of the conversation.")] = 768,
    seed: Annotated[int, typer.Option(help="Another conversation, the same for the same seed.")] = 0,
) -> None:
    """Let the bundled model read a long conversation with a full cache and with small ones, and ask for its facts."""
    from retain_local.demo.run import run_demo

    run_demo(budget, tokens, seed)


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


@gates_app.command(
    "train",
    epilog="""Examples:

    retain-local gates train Qwen/Qwen3-0.6B trained/ --data chats.jsonl --budget 256 --base-gguf Qwen3-0.6B.gguf

    retain-local gates train ./base trained/ --data book.txt --data more.txt --context 2048 --steps 500""",
)
def gates_train(
    base: Annotated[
        str,
        typer.Argument(
            help="The base model in the layout of transformers: a folder, or OWNER/REPO on the Hugging Face Hub.",
            metavar="BASE",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            help="Folder for the checkpoint, the sidecar and the log. A training that was stopped goes on from it.",
            metavar="OUT",
            show_default=False,
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="What to train on, may be given again: a text file, JSON lines with 'messages' or 'text', a folder of"
            " data files, or NAME[:SPLIT] of a data set on the Hub.",
            show_default=False,
        ),
    ] = None,
    base_gguf: Annotated[
        Path | None,
        typer.Option(
            help="The base model as GGUF: checks that the sidecar fits it, and ties it to its vocabulary.",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[int, typer.Option(help="Cells for each (layer, KV head) that the gates learn to make do with.")] = 128,
    context: Annotated[int, typer.Option(help="Tokens of a row.")] = 4096,
    steps: Annotated[int, typer.Option(help="Updates.")] = 1000,
    batch: Annotated[int, typer.Option(help="Rows of an update.")] = 4,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 2e-4,
    warmup: Annotated[float, typer.Option(help="Share of the steps in which the learning rate rises.")] = 0.03,
    variant: Annotated[str, typer.Option(help="rg10: global; rg: made for a budget per head.")] = "rg10",
    untied: Annotated[
        bool, typer.Option("--untied", help="rg10 with a final projection for each layer instead of one.")
    ] = False,
    gate_size: Annotated[int, typer.Option(help="Width of the gates.")] = 512,
    start_bias: Annotated[
        float | None, typer.Option(help="Of the final projection. (default: 18 for rg10, 10 for rg)", show_default=False)
    ] = None,
    capacity_weight: Annotated[float, typer.Option(help="Weight of the loss that asks for the budget.")] = 1.0,
    kl_weight: Annotated[float, typer.Option(help="Weight of the divergence from the full cache.")] = 0.5,
    ce_weight: Annotated[float, typer.Option(help="Weight of next-token prediction.")] = 0.5,
    loss: Annotated[str, typer.Option(help="Tokens that count: all, or those that the assistant says.")] = "all",
    seed: Annotated[int, typer.Option(help="Of everything that is drawn at random.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Of the base model: f32, bf16, or auto: bf16 on a GPU.")] = "auto",
    outtype: Annotated[str, typer.Option(help="Type of the sidecar's weights: f32, f16 or q8_0.")] = "f16",
) -> None:
    """Train gates for a model, which stays as it is; needs PyTorch (pip install 'retain-local[train]').

    The gates learn to let cells fade so that the model still says what it says with the full cache, and the cells that
    are left fit the budget (arXiv 2605.09649). A run that was stopped goes on when the same command is run again.
    """
    from retain_local.gates.train.options import TrainOptions
    from retain_local.gates_training import train

    options = TrainOptions(
        variant, not untied, gate_size, start_bias, budget, context, batch, steps, lr, warmup, capacity_weight, kl_weight,
        ce_weight, loss, seed, device, dtype,
    )  # fmt: skip
    train(base, out, data or [], options, base_gguf, outtype)


@app.command()
def doctor() -> None:
    """Check the installation: libraries, versions, backends, CPU features; what is wrong, and how to mend it."""
    from retain_local.doctor import run_doctor

    raise typer.Exit(run_doctor())


def main() -> None:
    """Run the command line."""
    run_app(app)
