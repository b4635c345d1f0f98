"""The command line: a table of contents. What a command does is in `retain_local.commands`."""

from __future__ import annotations

from typing import Annotated

import typer

from retain_local.audit.options import AuditOptions
from retain_local.bench.options import BenchOptions
from retain_local.chat.sampling import Sampling
from retain_local.commands import options as o
from retain_local.commands import parts
from retain_local.commands.app import run_app
from retain_local.commands.gates import gates_app
from retain_local.commands.help import Version, command, show_help_alone
from retain_local.commands.options import takes
from retain_local.evaluation.options import EvalOptions, TaskOptions
from retain_local.options.model_options import ModelOptions
from retain_local.options.retention_options import RetentionOptions
from retain_local.report.options import ReportOptions
from retain_local.server.options import ServeOptions

app = typer.Typer(
    name="retain-local",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(gates_app, name="gates")


@app.callback()
def root(ctx: typer.Context, version: Version = False) -> None:
    """Run GGUF models with a KV cache of fixed size."""
    show_help_alone(ctx)


@command(
    app,
    "chat",
    "retain-local chat model.gguf --budget 2048",
    "retain-local chat Qwen/Qwen3-4B-GGUF:Q4_K_M --budget 25%",
    'retain-local chat model.gguf --system "Answer in one line." --pin-system',
    'echo "Where is Paris?" | retain-local chat model.gguf --temp 0',
)
@takes(**parts.CHAT)
def chat(
    model: o.Model, system: o.System = "", *, cache: RetentionOptions, loading: ModelOptions, sampling: Sampling
) -> None:
    """Chat with a model in a KV cache of fixed size.

    /help lists the commands and keys of a chat. If stdin is not a terminal, each line of it is a message.
    """
    from retain_local.commands.chat import run_chat

    raise typer.Exit(run_chat(model, system, cache, loading, sampling))


@command(
    app,
    "run",
    'retain-local run model.gguf -p "Once upon a time" --max-tokens 100',
    "retain-local run model.gguf -f book.txt --budget 512MiB --json",
    "cat question.txt | retain-local run model.gguf --chat",
    'retain-local run model.gguf --image photo.jpg --chat -p "What is this?"',
)
@takes(**parts.CHAT)
def run(
    model: o.Model,
    prompt: o.Prompt = None,
    file: o.PromptFile = None,
    image: o.Images = None,
    as_json: o.AsJson = False,
    chat: o.IsChat = False,
    system: o.System = "",
    *,
    cache: RetentionOptions,
    loading: ModelOptions,
    sampling: Sampling,
) -> None:
    """Complete one prompt. The text goes to stdout, a line about speed and cache to stderr."""
    from retain_local.commands.chat import complete

    complete(model, prompt, file, image or [], chat, system, as_json, cache, loading, sampling)


@command(
    app,
    "serve",
    "retain-local serve model.gguf --budget 2048",
    "retain-local serve Qwen/Qwen3-4B-GGUF:Q4_K_M --parallel 2 --ctx-size 200000",
    passes_on=True,
)
@takes(**parts.SERVE)
def serve(
    ctx: typer.Context, model: o.Model, *, cache: RetentionOptions, serving: ServeOptions, verbose: o.Verbose = False
) -> None:
    """Serve a model to clients of the OpenAI and Anthropic APIs.

    The server is llama.cpp's own, and takes its other options too. It is compiled when it is first asked for, which takes
    minutes.
    """
    from retain_local.commands.serve import run_serve

    raise typer.Exit(run_serve(model, cache, serving, verbose, ctx.args))


@command(
    app,
    "eval",
    "retain-local eval bundled --tasks single,hops2 --budgets 1/4,1/8 --items 200",
    "retain-local eval model.gguf --policies gate,window --json results.jsonl",
    "retain-local eval model.gguf --tasks gsm8k:test.jsonl,text:book.txt",
)
@takes(**parts.EVAL)
def evaluate(
    model: o.Model,
    *,
    options: EvalOptions,
    report: ReportOptions,
    generated: TaskOptions,
    cache: RetentionOptions,
    loading: ModelOptions,
) -> None:
    """Ask a model the same questions with the full cache and with small ones, and compare the answers."""
    from retain_local.commands.evaluation import EvalRequest, run_eval

    run_eval(model, EvalRequest(options, generated, cache, loading, report.files()))


@command(
    app,
    "results",
    "retain-local results results.jsonl --markdown",
    "retain-local results tied.jsonl untied=untied.jsonl --report compared.html",
)
@takes(**parts.RESULTS)
def results(
    files: o.ResultFiles,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables in Markdown.")] = False,
    *,
    report: ReportOptions,
) -> None:
    """Show saved results of eval again, several files in the same tables."""
    from retain_local.commands.evaluation import show_results

    show_results(files, markdown, report.files())


@command(
    app,
    "audit",
    "retain-local audit model.gguf --text book.txt",
    "retain-local audit model.gguf --text chapters/*.txt --budgets 512,1024",
    "retain-local audit model.gguf --text logs.txt --window 8192 --report a.html",
)
@takes(**parts.AUDIT)
def audit(
    model: o.Model,
    text: o.Texts,
    more: o.MoreTexts = None,
    *,
    options: AuditOptions,
    report: ReportOptions,
    cache: RetentionOptions,
    loading: ModelOptions,
) -> None:
    """Measure what eviction costs on your own text, and recommend a budget.

    Each text is read once with the full cache and once for each budget, and the next-token distributions are compared
    token by token. The exit status is 2 if no budget is within the bound.
    """
    from retain_local.commands.audit import run_audit

    raise typer.Exit(run_audit(model, [*text, *(more or [])], options, cache, loading, report.files()))


@command(
    app,
    "bench",
    "retain-local bench model.gguf --depths 512,4096,16384 --budget 2048",
    "retain-local bench model.gguf --vs-stock --json bench.json --plot bench.png",
)
@takes(**parts.BENCH)
def bench(model: o.Model, *, options: BenchOptions, cache: RetentionOptions, loading: ModelOptions) -> None:
    """Measure the speed of prefill and decode at any depth, and the memory of the cache."""
    from retain_local.commands.bench import run_bench

    run_bench(model, options, cache, loading)


@command(app, "demo", "retain-local demo --budget 32")
def demo(
    budget: Annotated[
        str,
        typer.Option(
            help="Cells for each (layer, KV head) of the small caches: a number, or a share of the conversation (1/12)."
        ),
    ] = "64",
    tokens: Annotated[int, typer.Option(help="The length of the conversation in tokens.")] = 768,
    seed: Annotated[int, typer.Option(help="The seed from which the conversation is made.")] = 0,
) -> None:
    """Let the bundled model read a conversation with the full cache and with small ones, and ask it about the facts."""
    from retain_local.demo.show import run_demo

    run_demo(budget, tokens, seed)


@command(app, "doctor")
def doctor() -> None:
    """Check the installation, and say what is wrong and how to fix it."""
    from retain_local.commands.doctor import run_doctor

    raise typer.Exit(run_doctor())


def main() -> None:
    """Run the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
