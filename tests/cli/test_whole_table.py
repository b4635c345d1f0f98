"""Tables on terminals of any width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from retain_local.terminal.whole_table import print_whole

FIGURES = [f"{10**6 + number:,}" for number in range(6)]


@pytest.mark.parametrize("width", [10, 44, 80])
def test_figures_are_whole(width: int) -> None:
    table = Table("depth", *(f"column {number}" for number in range(5)))
    table.add_row(*FIGURES)
    out = io.StringIO()
    print_whole(Console(file=out, width=width), table)
    assert all(figure in out.getvalue() for figure in FIGURES)
    assert "…" not in out.getvalue()


def test_a_table_that_fits_keeps_its_width() -> None:
    table = Table("depth", "what a cell says in many words, which can be broken")
    table.add_row("1", "a b c d e f g h i j k l m n o p q r s t u v w x y z")
    out = io.StringIO()
    print_whole(Console(file=out, width=30), table)
    assert max(map(len, out.getvalue().splitlines())) <= 30
