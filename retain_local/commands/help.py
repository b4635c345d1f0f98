"""Help of one screen: what most people need, and the rest behind `--help-all`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from ..bindings.library import BINDINGS, BINDINGS_VERSION
from ..errors import RetainError
from .options import ALL, LATE_HELP, RARE


class Command(TyperCommand):
    """A command whose help leaves out the options of `RARE`, unless all are asked for or it has no --help-all."""

    def __init__(self, *args: Any, help: str | None = None, **settings: Any) -> None:
        paragraphs = inspect.cleandoc(help or "").split("\n\n")
        super().__init__(*args, help="\n\n".join(" ".join(text.split()) for text in paragraphs), **settings)

    def complete_help(self) -> None:
        """Fill in the help that only the native library knows."""
        for parameter in self.params:
            if isinstance(parameter, TyperOption) and parameter.name in LATE_HELP and not parameter.help:
                try:
                    parameter.help = LATE_HELP[parameter.name]()
                except RetainError as error:
                    parameter.help = f"The native library, which knows the choices, cannot be loaded: {error}."

    def format_options(self, ctx: Any, formatter: Any) -> None:
        self.complete_help()
        everything = ctx.meta.get(ALL) or all(parameter.name != "help_all" for parameter in self.params)
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None or (parameter.name in RARE and not everything):
                continue
            title = "Options"
            if parameter.param_type_name == "argument":
                title, record = "Arguments", (parameter.metavar or record[0], record[1])
            record = (record[0].removeprefix(" / "), record[1])  # a switch that only turns off what is on by default
            if everything:
                title = getattr(parameter, "rich_help_panel", None) or title
            sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [p.metavar or "" for p in self.get_params(ctx) if p.param_type_name == "argument"]
        return ["[OPTIONS]", *arguments]

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        lines = [line.strip() for line in (self.epilog or "").splitlines() if line.strip()]
        if lines:
            # a command that is broken over two lines could not be copied
            heading, *examples = lines
            formatter.write("".join(["\n", heading, "\n", *(f"  {example}\n" for example in examples)]))

    def get_short_help_str(self, limit: int = 0) -> str:
        return (self.help or "").partition("\n")[0]


def show_help_alone(ctx: typer.Context) -> None:
    """What a group of commands does where none of them is named."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help(), file=sys.stderr)
        raise typer.Exit(2)


def _show_version(ctx: typer.Context, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        print(f"retain-local {_version()} (llama.cpp of {BINDINGS} {BINDINGS_VERSION})")
        raise typer.Exit


def _version() -> str:
    try:
        return version("retain-local")
    except PackageNotFoundError:
        return "from its source"


Version = Annotated[
    bool,
    typer.Option(
        "--version", is_eager=True, callback=_show_version, help="Show the version and exit.", show_default=False
    ),
]


def command(
    app: typer.Typer, name: str, *examples: str, passes_on: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator: the function is a command of this name, with these examples in its help.

    passes_on : options that it does not know are left in the context's `args`, for another program.
    """
    head = ["Examples:" if len(examples) > 1 else "Example:"] if examples else []
    settings = {"allow_extra_args": True, "ignore_unknown_options": True} if passes_on else {}
    return app.command(name, cls=Command, epilog="\n\n".join([*head, *examples]), context_settings=settings)
