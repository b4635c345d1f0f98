"""Write docs/reference/python-options.md from the tables of options: ``.venv/bin/python docs/tools/python_options.py``."""

from __future__ import annotations

from dataclasses import Field
from pathlib import Path
from typing import Any

from retain_local.options.model_options import ModelOptions
from retain_local.options.retention_options import RetentionOptions
from retain_local.options.table import Option, options_of

PAGE = Path(__file__).parents[1] / "reference" / "python-options.md"
INTRO = """# Arguments of `Llama`

`docs/tools/python_options.py` writes this page from the same tables that the command line is made from, and a test
checks that they agree. [Python](../python.md) explains how to use the class. `Llama` also takes every other argument of
`llama_cpp.Llama`.
"""
TABLES = {"How the cache is kept": RetentionOptions, "How the model is loaded and run": ModelOptions}


def in_a_cell(text: str) -> str:
    """A text as a cell of a table: a bar would end the cell, and Markdown would take <name> for HTML."""
    return text.replace("|", "\\|").replace("<", "\\<")


def default_text(found: Field[Any], said: Option) -> str:
    """The default of an argument; None says what it means."""
    return said.unset if found.default is None and said.unset else f"`{found.default!r}`".replace("'", '"')


def row(found: Field[Any], said: Option) -> str:
    """One argument of a table."""
    words = said.help if isinstance(said.help, str) else said.help()
    return f"| `{found.name}` | {in_a_cell(default_text(found, said))} | {in_a_cell(words)} |"


def render() -> str:
    """The whole page."""
    lines = [INTRO]
    for title, table in TABLES.items():
        lines += [f"## {title}", "", "| argument | default | meaning |", "|---|---|---|"]
        lines += [row(found, said) for found, said in options_of(table)] + [""]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
