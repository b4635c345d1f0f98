"""The command line: arguments in, calls out, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retain_local.commands import options as o
from retain_local.commands.app import run_app
from retain_local.commands.gates import gates_app
from retain_local.commands.help import Command, HelpAll, Version

app = typer.Typer(
    name="retain-local",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(gates_app, name="gates")


@app.callback()
def root(version: Version = False) -> None:
    """Run GGUF models with a KV cache of fixed size."""


@app.command(
    cls=Command,
    epilog="""Examples:

    retain-local chat model.gguf --budget 2048

    retain-local chat Qwen/Qwen3-4B-GGUF:Q4_K_M --budget 25% --system "Answer in one line." --pin-system

    echo "What is the capital of France?" | retain-local chat model.gguf --temp 0""",
)
def chat(
    model: o.Model,
    system: o.System = "",
    budget: o.Budget = None,
    buffer: o.Buffer = None,
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
    control_tokens_in_messages: o.ControlTokens = False,
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
    batch: o.Batch = None,
    ubatch: o.UBatch = None,
    n_gpu_layers: o.GpuLayers = 0,
    verbose: o.Verbose = False,
    help_all: HelpAll = False,
) -> None:
    """Chat with a model, whose cache never outgrows the budget.

    /help lists the commands and keys of a chat. Where stdin is not a terminal each line of it is a message.
    """
    from retain_local.chat.generation import Sampling
    from retain_local.commands.loading import LoadOptions, load_model

    sampling = Sampling(temp, top_k, top_p, min_p, repeat_penalty, seed, max_tokens)
    options = LoadOptions(
        budget, buffer, gates, policy, scope, policy_seed, sinks, recent, min_per_head, lookahead, prefill, pin_system,
        ctx, threads, batch, ubatch, type_k, type_v, n_gpu_layers, verbose, rope_freq_base,
        control_tokens_in_messages,
    )  # fmt: skip
    llm = load_model(model, options)

    from retain_local.chat.session import Session
    from retain_local.chat.ui import ChatUI

    raise typer.Exit(ChatUI(Session(llm, system, sampling)).run())


@app.command(
    cls=Command,
    epilog="""Examples:

    retain-local run model.gguf -p "Once upon a time" --max-tokens 100

    retain-local run model.gguf -f book.txt --budget 512MiB --json

    cat question.txt | retain-local run model.gguf --chat""",
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
    buffer: o.Buffer = None,
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
    control_tokens_in_messages: o.ControlTokens = False,
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
    batch: o.Batch = None,
    ubatch: o.UBatch = None,
    n_gpu_layers: o.GpuLayers = 0,
    verbose: o.Verbose = False,
    help_all: HelpAll = False,
) -> None:
    """Complete one prompt: the text goes to stdout, a line about speed and cache to stderr."""
    from retain_local.chat.generation import Sampling
    from retain_local.commands.loading import LoadOptions, load_model
    from retain_local.terminal.text_input import read_prompt

    if system and not chat:
        raise typer.BadParameter("a system message needs --chat", param_hint="--system")
    text = read_prompt(prompt, file)
    sampling = Sampling(temp, top_k, top_p, min_p, repeat_penalty, seed, max_tokens)
    options = LoadOptions(
        budget, buffer, gates, policy, scope, policy_seed, sinks, recent, min_per_head, lookahead, prefill, pin_system,
        ctx, threads, batch, ubatch, type_k, type_v, n_gpu_layers, verbose, rope_freq_base,
        control_tokens_in_messages,
    )  # fmt: skip
    llm = load_model(model, options)

    from retain_local.chat.one_prompt import run_prompt

    run_prompt(llm, text, sampling, chat=chat, system=system, as_object=as_json)


@app.command(
    "eval",
    cls=Command,
    epilog="""Examples:

    retain-local eval bundled --tasks single,hops2 --budgets 1/4,1/8,1/16 --items 200

    retain-local eval model.gguf --policies gate,gate:head,window --budgets 512,1024 --json results.jsonl

    retain-local eval model.gguf --tasks gsm8k:test.jsonl,text:book.txt --policies window,snapkv --json results.jsonl""",
)
def evaluate(
    model: o.Model,
    tasks: o.Tasks = "single,several,hops2,changes,lookup",
    policies: o.Policies = "",
    budgets: o.Budgets = "1/2,1/4,1/8,1/16",
    scope: o.Scope = "global",
    items: Annotated[int, typer.Option(help="Questions of each task, or windows of a text.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the texts: another seed, other texts.")] = 0,
    json: Annotated[
        Path | None,
        typer.Option(
            help="Write every result to this file as it comes; a file that is there is gone on with.",
            show_default=False,
        ),
    ] = None,
    report: o.Report = None,
    png: o.Png = None,
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
    buffer: o.EvalBuffer = 16,
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
    ubatch: o.EvalUBatch = 64,
    n_gpu_layers: o.GpuLayers = 0,
    verbose: o.Verbose = False,
    help_all: HelpAll = False,
) -> None:
    """Ask a model the same questions with a full cache and with small ones, and compare the answers."""
    from retain_local.commands.evaluation import EvalOptions, run_eval
    from retain_local.report.files import ReportFiles

    parameters = {
        "n_tokens": tokens, "n_facts": facts, "n_decoys": decoys, "n_asked": asked, "n_hops": hops,
        "n_changes": changes, "n_turns": turns, "depth": depth,
    }  # fmt: skip
    load = {
        "buffer": buffer, "gates": gates, "policy_seed": policy_seed, "sinks": sinks, "recent": recent,
        "min_per_head": min_per_head, "lookahead": lookahead, "prefill": prefill, "type_k": type_k, "type_v": type_v,
        "n_ctx": ctx, "threads": threads, "n_ubatch": ubatch, "n_gpu_layers": n_gpu_layers, "verbose": verbose,
    }  # fmt: skip
    files = ReportFiles(report, png)
    run_eval(model, EvalOptions(tasks, policies, budgets, scope, items, seed, json, jobs, cut, parameters, load, files))


@app.command(
    cls=Command,
    epilog="""Examples:

    retain-local results results.jsonl --markdown

    retain-local results tied.jsonl untied=untied.jsonl --report compared.html""",
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
    report: o.Report = None,
    png: o.Png = None,
) -> None:
    """Show the results of evaluations again, those of several files in the same tables."""
    from retain_local.commands.evaluation import show_results
    from retain_local.report.files import ReportFiles

    show_results(files, markdown, ReportFiles(report, png))


@app.command(
    cls=Command,
    epilog="""Examples:

    retain-local audit model.gguf --text book.txt

    retain-local audit model.gguf --text chapters/*.txt --budgets 512,1024,2048 --min-agreement 0.95 --json audit.json

    retain-local audit model.gguf --text logs.txt --policy window --window 8192 --report audit.html""",
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
    report: o.Report = None,
    png: o.Png = None,
    store: Annotated[bool, typer.Option(help="Keep the recommendation for --budget auto.")] = True,
    buffer: o.EvalBuffer = 128,
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
    help_all: HelpAll = False,
) -> None:
    """Measure what eviction costs on your own text, and recommend a budget.

    Each text is read once with the full cache and once for each budget; next-token distributions are compared token by
    token. The exit status is 2 when no budget is within the bound.
    """
    from retain_local.commands.audit import AuditOptions, run_audit
    from retain_local.commands.loading import LoadOptions
    from retain_local.report.files import ReportFiles

    load = LoadOptions(
        buffer=buffer, gates=gates, policy=policy, scope=scope, policy_seed=policy_seed, sinks=sinks, recent=recent,
        min_per_head=min_per_head, lookahead=lookahead, n_ctx=ctx, n_threads=threads, n_ubatch=ubatch, type_k=type_k,
        type_v=type_v, n_gpu_layers=n_gpu_layers, verbose=verbose, rope_freq_base=rope_freq_base,
    )  # fmt: skip
    texts = [*text, *(more or [])]
    files = ReportFiles(report, png)
    options = AuditOptions(texts, budgets, max_kl, min_agreement, window, worst, json, store, files)
    raise typer.Exit(run_audit(model, options, load))


@app.command(
    cls=Command,
    epilog="""Examples:

    retain-local bench model.gguf --depths 512,4096,16384 --budget 2048

    retain-local bench model.gguf --depths 512,2048,8192,32768 --vs-stock --json bench.json --plot bench.png""",
)
def bench(
    model: o.Model,
    depths: Annotated[str, typer.Option(help="Tokens in the cache where speeds are measured, comma-separated.")] = (
        "512,2048,4096,8192"
    ),
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to write at each depth, each time.")] = 32,
    repeat: Annotated[int, typer.Option(min=1, help="How often to read and write at each depth.")] = 5,
    vs_stock: Annotated[
        bool,
        typer.Option(
            "--vs-stock",
            help="Also run stock llama.cpp of the same version, in turn; built into the cache the first time.",
        ),
    ] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Measure on a busy machine too.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write all numbers to this file.", show_default=False)] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw speed over depth to this file (.png, .svg, .pdf).", show_default=False)
    ] = None,
    budget: Annotated[
        str, typer.Option(help="Cells for each (layer, KV head): a number, or a share of the deepest depth (1/4, 25%).")
    ] = "2048",
    buffer: o.EvalBuffer = 128,
    gates: o.Gates = "auto",
    threads: o.Threads = None,
    ubatch: o.EvalUBatch = 512,
    type_k: o.TypeK = "f16",
    type_v: o.TypeV = "f16",
    n_gpu_layers: o.GpuLayers = 0,
    help_all: HelpAll = False,
) -> None:
    """Measure how fast a model reads and writes at any depth, and what the cache takes."""
    from retain_local.commands.bench import BenchOptions, run_bench

    retention = {"budget": budget, "buffer": buffer, "gates": gates}
    run_bench(
        model,
        BenchOptions(
            depths,
            tokens,
            repeat,
            threads,
            ubatch,
            type_k,
            type_v,
            n_gpu_layers,
            vs_stock,
            anyway,
            json,
            plot,
            retention,
        ),
    )


@app.command(cls=Command, epilog="Example: retain-local demo --budget 32")
def demo(
    budget: Annotated[
        str,
        typer.Option(
            help="Cells for each (layer, KV head) of the small cache: a number, or a share of the conversation (1/12)."
        ),
    ] = "64",
    tokens: Annotated[int, typer.Option(help="Length of the conversation.")] = 768,
    seed: Annotated[int, typer.Option(help="Another conversation, the same for the same seed.")] = 0,
) -> None:
    """Let the bundled model read a long conversation with a full cache and with small ones, and ask for its facts."""
    from retain_local.demo.show import run_demo

    run_demo(budget, tokens, seed)


@app.command(cls=Command)
def doctor() -> None:
    """Check the installation: libraries, versions, backends, CPU features; what is wrong, and how to mend it."""
    from retain_local.commands.doctor import run_doctor

    raise typer.Exit(run_doctor())


def main() -> None:
    """Run the command line."""
    run_app(app)
