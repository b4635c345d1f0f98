"""From tables of options to options of commands, and the arguments that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from ..options.table import Option, flag_of, options_of

# parameters whose help only the native library knows, and those that --help leaves out; by the name of the parameter
LATE_HELP: dict[str, Callable[[], str]] = {}
RARE = {"outtype"}

ALL = "retain_local.help_all"  # in a context's meta: show every option

Model = Annotated[
    str,
    typer.Argument(
        help="The model: a GGUF file, OWNER/REPO[:FILE or QUANT] or an address on the Hugging Face Hub, or bundled.",
        metavar="MODEL",
        show_default=False,
    ),
]
System = Annotated[str, typer.Option(help="The system message.", show_default=False)]
Prompt = Annotated[str | None, typer.Option("--prompt", "-p", help="The prompt.", show_default=False)]
PromptFile = Annotated[
    Path | None,
    typer.Option(
        "--file",
        "-f",
        help="A file with the prompt; - or no prompt at all reads stdin.",
        show_default=False,
    ),
]
Images = Annotated[
    list[Path] | None,
    typer.Option("--image", help="A picture before the prompt; repeatable.", metavar="FILE", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object: text, times and cache.")]
IsChat = Annotated[bool, typer.Option("--chat", help="Read the prompt as a message, by the chat template.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show what the server logs.")]
Texts = Annotated[
    list[Path],
    typer.Option(
        "--text",
        help="The UTF-8 files to read, as in --text chapters/*.txt; - is stdin.",
        metavar="FILE...",
        show_default=False,
    ),
]
MoreTexts = Annotated[
    list[Path] | None, typer.Argument(help="More texts, after --text.", metavar="[FILE...]", show_default=False)
]
ResultFiles = Annotated[
    list[str],
    typer.Argument(
        help="Files that eval --json wrote, as FILE or LABEL=FILE. The label is shown with the policies of that file.",
        metavar="FILE...",
        show_default=False,
    ),
]


def _show_all(ctx: typer.Context, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        ctx.meta[ALL] = True
        print(ctx.get_help())
        raise typer.Exit


_HELP_ALL = inspect.Parameter(
    "help_all",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool,
        typer.Option(
            "--help-all", is_eager=True, callback=_show_all, help="Show every option and exit.", show_default=False
        ),
    ],
)


@dataclass(frozen=True)
class Part:
    """A table as a command takes it: without some of its options, with other defaults for some.

    texts : what the help says instead, by field.
    """

    table: type
    without: tuple[str, ...] = ()
    defaults: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def but(self, *without: str, texts: dict[str, str] | None = None, **defaults: Any) -> Part:
        """The same without these options, and with these defaults."""
        return Part(self.table, self.without + without, self.defaults | defaults, self.texts | (texts or {}))

    def only(self, *names: str) -> Part:
        """The same with these options alone."""
        return self.but(*(name for name in self.names if name not in names))

    @property
    def names(self) -> tuple[str, ...]:
        """The options that the command has."""
        return tuple(one.name for one, _ in options_of(self.table) if one.name not in self.without)


def takes(**parts: Part | type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator: the command has the options of these tables, and gets a table for each, by its keyword.

    Raises, when the command is run
    -------------------------------
    UsageError : a value that an option does not take.
    """
    tables = {name: part if isinstance(part, Part) else Part(part) for name, part in parts.items()}

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name not in tables]
        made = {name: _parameters(part) for name, part in tables.items()}

        @functools.wraps(command)
        def run(help_all: bool, **given: Any) -> Any:
            values = {
                name: tables[name].table(**tables[name].defaults | {p.name: given.pop(p.name) for p in parameters})
                for name, parameters in made.items()
            }
            return command(**given, **values)

        parameters = [*own, *(p for found in made.values() for p in found), _HELP_ALL]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        del run.__wrapped__  # typer would look through it
        return run

    return decorate


def _parameters(part: Part) -> list[inspect.Parameter]:
    found = []
    for one, said in options_of(part.table):
        if one.name in part.without:
            continue
        default = part.defaults.get(one.name, one.default)
        annotation: Any = Annotated[_type(said, default), _option(one.name, flag_of(one, said), said, default, part)]
        found.append(
            inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    return found


def _type(said: Option, default: Any) -> Any:
    return said.kind | None if default is None else said.kind


def _option(name: str, flag: str, said: Option, default: Any, part: Part) -> Any:
    if said.rare:
        RARE.add(name)
    if callable(said.help):
        LATE_HELP[name] = said.text
    names = [f"--{flag}", *([f"-{said.short}"] if said.short else [])]
    if said.inverted:
        names = [f" /--{flag}"]
    text = part.texts.get(name) or ("" if callable(said.help) else _help(said, default))
    return typer.Option(
        *names,
        help=text,
        rich_help_panel=said.group,
        metavar="<path>" if said.kind == list[Path] else None,
        show_default=default is not None and default != "" and said.kind is not bool,
    )


def _help(said: Option, default: Any) -> str:
    """The help; what the default means is only said where nothing else is the default."""
    return said.text() if default in (None, "") else str(said.help)
