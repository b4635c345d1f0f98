"""The results in the terminal: a table for each task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..terminal.byte_format import format_bytes
from ..terminal.whole_table import print_whole
from .figures import percent, signed, signed_span, span
from .merge import Results
from .points import Point, points_by_task, points_together
from .text_points import TextPoint, text_points
from .text_table import TEXT_HEADS, text_row, text_title

AnyPoint = TypeVar("AnyPoint", Point, TextPoint)

SCORE_HEADS = ("policy", "budget", "score %", "95%", "less full", "95%")
COSTS = "What it took"
COST_HEADS = ("policy", "budget", "cells a head", "peak KV", "allocated", "archived", "reads tok/s", "writes tok/s")


def print_results(console: Console, results: Results, titles: dict[str, str]) -> None:
    """A table of accuracies for each task and for all of them, one for each text, and one of what each arm took.

    Parameters
    ----------
    titles : what the tables say of a task, where it is more than its name.
    """
    by_task = points_by_task(results)
    common, together = points_together(results)
    tables = [_accuracies(titles.get(task, task), points) for task, points in by_task.items()]
    if len(common) > 1:
        tables.append(_accuracies(title_of_several(common, len(by_task)), together))
    texts = text_points(results)
    tables += [_divergences(text_title(titles.get(task, task), points), points) for task, points in texts.items()]
    for table in [*tables, _costs(together)]:
        console.print()
        print_whole(console, table)


def title_of_several(tasks: list[str], n_all: int) -> str:
    return "all tasks" if len(tasks) == n_all else f"{', '.join(tasks)} together"


def _accuracies(title: str, points: list[Point]) -> Table:
    table = _table(f"{title}, {points[0].n_questions:,} questions", SCORE_HEADS)
    for point in _in_sections(table, points):
        method, budget, score, *others = map(escape, score_row(point))
        table.add_row(method, budget, f"[bold]{score}[/]", *others)
    return table


def score_row(point: Point) -> list[str]:
    """What a table of scores says of an arm, under `SCORE_HEADS`."""
    return [
        point.method,
        point.budget,
        percent(point.accuracy[0]),
        span(point.accuracy),
        signed(point.difference[0]) if point.difference else "",
        signed_span(point.difference) if point.difference else "",
    ]


def _divergences(title: str, points: list[TextPoint]) -> Table:
    table = _table(title, TEXT_HEADS)
    for point in _in_sections(table, points):
        table.add_row(*map(escape, text_row(point)))
    return table


def _costs(points: list[Point]) -> Table:
    table = _table(COSTS, COST_HEADS)
    for point in _in_sections(table, points):
        table.add_row(*map(escape, cost_row(point)))
    return table


def cost_row(point: Point) -> list[str]:
    """What a table of costs says of an arm, under `COST_HEADS`."""
    return [
        point.method,
        point.budget,
        "" if point.is_full else f"{point.n_budget:,.0f}",
        format_bytes(point.bytes_peak),
        format_bytes(point.bytes_pool),
        format_bytes(point.bytes_archived) if point.bytes_archived else "",
        f"{point.read_rate:,.0f}",
        f"{point.write_rate:,.0f}" if point.write_rate else "",
    ]


def _table(title: str, heads: Sequence[str]) -> Table:
    table = Table(title=escape(title), title_justify="left")
    table.add_column(heads[0], no_wrap=True)
    for name in heads[1:]:
        table.add_column(name, justify="right")
    return table


def _in_sections(table: Table, points: Iterable[AnyPoint]) -> Iterator[AnyPoint]:
    """The points, with a line in the table between two methods."""
    method = None
    for point in points:
        if method not in (None, point.method):
            table.add_section()
        method = point.method
        yield point
