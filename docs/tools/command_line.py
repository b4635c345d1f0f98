"""Write docs/reference/command-line.md from the program's own help: ``.venv/bin/python docs/tools/command_line.py``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click
import typer

from retain_local.cli import app

PAGE = Path(__file__).parents[1] / "reference" / "command-line.md"
INTRO = """# Command line

`docs/tools/command_line.py` writes this page from the help texts of the program, and a test checks that the two agree.
An error is one line on stderr. The exit status is 1 for what cannot be done, 2 for a wrong option and 130 for Ctrl-C.

`-h` or `--help` shows the options of a command that most people need, and `--help-all` shows all of them.
`retain-local --install-completion` lets your shell complete commands and options, and `--version` shows the release.
`python -m retain_local` does the same as `retain-local`.
"""


def leaves(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    """Every command that is no group, with its full name."""
    for name, child in getattr(command, "commands", {}).items():
        yield from leaves(child, (*path, name))
    if not hasattr(command, "commands"):
        yield " ".join(path), command


def shown(text: str | None) -> str:
    """A help text without the indentation of the source."""
    return inspect.cleandoc(text or "")


def in_a_cell(text: str) -> str:
    """A text as a cell of a table: a bar would end the cell, and Markdown would take <name> for HTML."""
    return text.replace("|", "\\|").replace("<", "\\<")


def default_text(parameter: click.Parameter) -> str:
    """A default as the table shows it; an option without one says in its help what happens."""
    if getattr(parameter, "is_flag", False) or parameter.default in (None, "") or callable(parameter.default):
        return ""
    return f"`{parameter.default}`"


def section(name: str, command: click.Command) -> str:
    """One command: what it does, its arguments and options, its examples."""
    command.complete_help()
    lines = [f"## `{name}`", "", shown(command.help)]
    if command.params:
        lines += ["", "| option | default | meaning |", "|---|---|---|"]
    for parameter in command.params:
        names = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
        if parameter.param_type_name == "argument":
            names = f"`{parameter.metavar or parameter.name.upper()}`"
        meaning = in_a_cell(shown(getattr(parameter, "help", None)))
        lines.append(f"| {names} | {default_text(parameter)} | {meaning} |")
    if command.epilog:
        lines += ["", *(f"    {line.strip()}" if line.strip() else "" for line in examples(command.epilog))]
    return "\n".join(lines) + "\n"


def examples(epilog: str) -> list[str]:
    """The commands of an epilog, without its heading."""
    text = shown(epilog).removeprefix("Examples:").removeprefix("Example:")
    return [line for line in text.strip().splitlines() if line.strip()]


def render() -> str:
    """The whole page."""
    sections = [section(name, command) for name, command in leaves(typer.main.get_command(app), ("retain-local",))]
    return "\n".join([INTRO, *sections])


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
