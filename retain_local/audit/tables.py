"""An audit in the terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..report.style import shown, shown_token
from ..terminal.byte_format import format_bytes
from ..terminal.whole_table import print_whole
from .result import Audit, BudgetAudit
from .verdict import Bound
from .worst import worst_places

BUDGET_HEADS = ("budget", "cells", "KL mean", "95%", "99%", "agrees", "PPL ratio", "KV peak", "saved", "bound")
RECALL_TITLE = "What recall gains over the same budget without it, and what it costs"
RECALL_HEADS = ("budget", "KL without", "KL", "ratio", "agrees without", "agrees", "archive", "time")

_PLAIN: dict[str, Any] = {
    "box": SIMPLE_HEAD,
    "padding": (0, 1, 0, 0),  # ten columns of figures fit 80 characters
    "pad_edge": False,
    "title_justify": "left",
    "title_style": "bold",
}
_MARKS = {"covers": "dim", "within": "green", "out": "red"}
_BETTER = 0.98  # a perplexity ratio below it is no accident


def print_audit(console: Console, audit: Audit, bound: Bound, n_worst: int, piece: Callable[[int], str]) -> None:
    """Print what was audited, each budget, each file where there are several, and the worst places."""
    console.print(Text(heading(audit)))
    print_whole(console, _budget_table(audit, bound))
    if rows := recall_rows(audit):
        print_whole(console, _recall_table(rows))
    if left := pictures_left(audit):
        console.print(Text(left))
    if remark := note(audit):
        console.print(Text(remark, "yellow"))
    if len(audit.budgets[0].files) > 1:
        print_whole(console, _file_table(audit, bound))
    if n_worst and audit.evicts:
        print_whole(console, _worst_table(audit, n_worst, piece))


def heading(audit: Audit) -> str:
    """What was audited, in one line."""
    n_files, n_texts = len(audit.budgets[0].files), len(audit.texts)
    n_tokens = sum(len(text.tokens) for text in audit.texts)
    counts = f"{n_files} {'file' if n_files == 1 else 'files'}, {n_tokens:,} tokens"
    if n_texts > n_files:
        counts += f" in {n_texts} windows"
    policy = audit.policy if audit.scope == "global" else f"{audit.policy} with a budget for each {audit.scope}"
    gates = f" (gates {audit.gates.name})" if audit.gates is not None else ""
    return f"{audit.model.name}, policy {policy}{gates}: {counts}, read in chunks of {audit.n_chunk}"


def _budget_table(audit: Audit, bound: Bound) -> Table:
    table = Table(*BUDGET_HEADS, **_PLAIN)
    for column in table.columns[1:-1]:
        column.justify = "right"
    for one in audit.budgets:
        *figures, mark = budget_row(one, bound)
        table.add_row(*figures, Text(mark, _MARKS[mark]))
    table.add_row(*full_row(audit), style="dim")
    return table


def budget_row(one: BudgetAudit, bound: Bound) -> list[str]:
    """What a table says of a budget, under `BUDGET_HEADS`."""
    summary = one.summary
    return [
        one.name,
        f"{one.cells:,}",
        *(f"{kl:.4f}" for kl in (summary.kl_mean, summary.kl_95, summary.kl_99)),
        f"{summary.agreement:.1%}",
        f"{summary.perplexity_ratio:.3f}",
        format_bytes(one.bytes_peak),
        f"{1 - one.bytes_peak / one.bytes_full:.0%}",
        ("within" if bound.allows(one) else "out") if one.evicts else "covers",
    ]


def recall_rows(audit: Audit) -> list[list[str]]:
    """What recall gains at each budget that was read with and without it, and what it costs, under `RECALL_HEADS`."""
    without = {one.budget: one for one in audit.budgets if not one.recall}
    rows = []
    for one in audit.budgets:
        other = without.get(one.budget)
        if not one.recall or other is None or not (one.evicts and other.evicts):
            continue
        kl, kl_without = one.summary.kl_mean, other.summary.kl_mean
        rows.append(
            [
                one.name,
                f"{kl_without:.4f}",
                f"{kl:.4f}",
                f"{kl / kl_without:.2f}" if kl_without else "",
                f"{other.summary.agreement:.1%}",
                f"{one.summary.agreement:.1%}",
                format_bytes(one.bytes_archived),
                f"{one.seconds / other.seconds:.2f} x" if other.seconds else "",
            ]
        )
    return rows


def _recall_table(rows: list[list[str]]) -> Table:
    table = Table(*RECALL_HEADS, title=RECALL_TITLE, **_PLAIN)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    return table


def full_row(audit: Audit) -> list[str]:
    """The same of the full cache."""
    return ["full", "", "", "", "", "", "", format_bytes(audit.budgets[0].bytes_full), "", ""]


def pictures_left(audit: Audit) -> str | None:
    """How much of the pictures was left at each budget, in one line; None without pictures."""
    shares = [(one.name, *one.n_of_pictures) for one in audit.budgets]
    parts = [f"{left / came:.1%} at {budget}" for budget, left, came in shares if came]
    return f"cells of pictures left at the end of the texts: {', '.join(parts)}" if parts else None


def note(audit: Audit) -> str | None:
    """What to make of a full cache that predicts the text worse."""
    better = [one for one in audit.budgets if one.evicts and one.summary.perplexity_ratio < _BETTER]
    if not better:
        return None
    return (
        f"The full cache predicts these texts worse than {better[0].name} does: the model gains nothing from text that"
        " far back, or cannot read that far. KL is then a difference, and not a loss."
    )


def _file_table(audit: Audit, bound: Bound) -> Table:
    table = Table("file", *(one.name for one in audit.budgets), title="KL mean of each file", **_PLAIN)
    for column in table.columns[1:]:
        column.justify = "right"
    for file, name in short_names(audit).items():
        summaries = [one.files[file] for one in audit.budgets]
        table.add_row(Text(name), *(Text(f"{s.kl_mean:.4f}", "" if bound.holds(s) else "red") for s in summaries))
    return table


def _worst_table(audit: Audit, n_worst: int, piece: Callable[[int], str]) -> Table:
    columns = ("budget", "KL", "line", "the text before", "came", "full", "cache")
    table = Table(*columns, title="Worst places: what came, and what each cache held likeliest", **_PLAIN)
    for column in table.columns[1:3]:
        column.justify = "right"
    names = short_names(audit)
    for one in filter(lambda one: one.evicts, audit.budgets):
        for number, place in enumerate(worst_places(one, n_worst, piece)):
            where = f"{names[place.file]}:{place.line}" if len(names) > 1 else str(place.line)
            label = one.name if number == 0 else ""
            tokens = (Text(shown_token(token)) for token in (place.came, place.full, place.cache))
            table.add_row(label, f"{place.kl:.2f}", Text(where), Text(shown(place.before)), *tokens)
    return table


def short_names(audit: Audit) -> dict[str, str]:
    """A short name for each file: without its folder, where that leaves them different."""
    files = list(audit.budgets[0].files)
    names = [Path(file).name for file in files]
    return dict(zip(files, names if len(set(names)) == len(names) else files))
