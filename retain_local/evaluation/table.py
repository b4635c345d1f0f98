"""The results in the terminal: a table for each task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.table import Table

from ..byte_format import format_bytes
from .merge import Results
from .points import Interval, Point, points_by_task, points_together


def print_results(console: Console, results: Results, titles: dict[str, str]) -> None:
    """A table of accuracies for each task and for all of them, and one of what each arm took.

    Parameters
    ----------
    titles : what the tables say of a task, where it is more than its name.
    """
    by_task = points_by_task(results)
    common, together = points_together(results)
    tables = [_accuracies(titles.get(task, task), points) for task, points in by_task.items()]
    if len(common) > 1:
        tables.append(_accuracies(title_of_several(common, len(by_task)), together))
    for table in [*tables, _costs(together)]:
        console.print()
        console.print(table)


def title_of_several(tasks: list[str], n_all: int) -> str:
    return "all tasks" if len(tasks) == n_all else f"{', '.join(tasks)} together"


def _accuracies(title: str, points: list[Point]) -> Table:
    table = Table(title=f"{title}, {points[0].n_questions:,} questions", title_justify="left")
    _add_columns(table, "score %", "95%", "less full", "95%")
    for point in _in_sections(table, points):
        table.add_row(
            point.method,
            point.budget,
            f"[bold]{percent(point.accuracy[0])}[/]",
            span(point.accuracy),
            signed(point.difference[0]) if point.difference else "",
            signed_span(point.difference) if point.difference else "",
        )
    return table


def _costs(points: list[Point]) -> Table:
    table = Table(title="What it took", title_justify="left")
    _add_columns(table, "cells a head", "peak KV", "allocated", "reads tok/s", "writes tok/s")
    for point in _in_sections(table, points):
        table.add_row(
            point.method,
            point.budget,
            "" if point.is_full else f"{point.n_budget:,.0f}",
            format_bytes(point.bytes_peak),
            format_bytes(point.bytes_pool),
            f"{point.read_rate:,.0f}",
            f"{point.write_rate:,.0f}",
        )
    return table


def _add_columns(table: Table, *names: str) -> None:
    table.add_column("policy", no_wrap=True)
    for name in ("budget", *names):
        table.add_column(name, justify="right")


def _in_sections(table: Table, points: Iterable[Point]) -> Iterator[Point]:
    """The points, with a line in the table between two methods."""
    method = None
    for point in points:
        if method not in (None, point.method):
            table.add_section()
        method = point.method
        yield point


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def signed(share: float) -> str:
    """Percentage points with their sign; a true minus, and none before a zero."""
    text = f"{100 * share:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def span(interval: Interval) -> str:
    return f"{percent(interval[1])}–{percent(interval[2])}"


def signed_span(interval: Interval) -> str:
    return f"{signed(interval[1])} to {signed(interval[2])}"
