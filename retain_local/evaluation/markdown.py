"""The results in Markdown: for each task a table of methods and budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..terminal.byte_format import format_bytes
from .figures import percent, signed, signed_span, span
from .merge import Results
from .points import Point, points_by_task, points_together
from .table import title_of_several
from .text_points import TextPoint, text_points
from .text_table import TEXT_HEADS, text_row, text_title

PIPE = r"\|"  # one that does not end a cell


def render_markdown(results: Results, titles: dict[str, str]) -> str:
    """Accuracy and its difference to the full cache, for all tasks together and for each; texts; what each arm took."""
    by_task = points_by_task(results)
    common, together = points_together(results)
    sections = [_section(titles.get(task, task), points) for task, points in by_task.items()]
    if len(common) > 1:
        sections.insert(0, _section(title_of_several(common, len(by_task)), together))
    texts = text_points(results)
    sections += [_text_section(text_title(titles.get(task, task), points), points) for task, points in texts.items()]
    return "\n\n".join([*sections, _costs(together)])


def _section(title: str, points: list[Point]) -> str:
    lines = [f"### {title[0].upper()}{title[1:]}", "", f"{points[0].n_questions:,} questions."]
    lines[-1] += "".join(f" {_full(point)}" for point in points if point.is_full)
    tables = [_matrix("score, %", points, _accuracy)]
    if any(point.difference for point in points):
        tables.append(_matrix("less the full cache", points, _difference))
    return "\n\n".join(["\n".join(lines), *tables])


def _text_section(title: str, points: list[TextPoint]) -> str:
    return "\n".join([f"### {title}", "", *_table([*TEXT_HEADS], map(text_row, points))])


def _full(point: Point) -> str:
    return f"{point.method.capitalize()} cache: {percent(point.accuracy[0])}% ({span(point.accuracy)})."


def _accuracy(point: Point) -> str:
    return f"{percent(point.accuracy[0])} ({span(point.accuracy)})"


def _difference(point: Point) -> str:
    """The difference in points, its interval, and the accuracy as a share of the full cache's."""
    if point.difference is None:
        return ""
    difference = f"{signed(point.difference[0])} ({signed_span(point.difference)})"
    full = point.accuracy[0] - point.difference[0]
    return f"{difference}, {percent(point.accuracy[0] / full)}%" if full else difference


def _matrix(corner: str, points: list[Point], cell: Callable[[Point], str]) -> str:
    """A table with a row for each method and a column for each budget."""
    cells = {(point.method, point.budget): cell(point) for point in points if not point.is_full}
    methods = list(dict.fromkeys(method for method, _ in cells))
    budgets = list(dict.fromkeys(budget for _, budget in cells))
    rows = ([method, *(cells.get((method, budget), "") for budget in budgets)] for method in methods)
    return "\n".join(_table([corner, *budgets], rows))


def _costs(points: list[Point]) -> str:
    heads = ["", "budget", "cells a head", "peak KV", "KV allocated", "archived", "reads, tok/s", "writes, tok/s"]
    rows = (
        [
            point.method,
            point.budget,
            "" if point.is_full else f"{point.n_budget:,.0f}",
            format_bytes(point.bytes_peak),
            format_bytes(point.bytes_pool),
            format_bytes(point.bytes_archived) if point.bytes_archived else "",
            f"{point.read_rate:,.0f}",
            f"{point.write_rate:,.0f}" if point.write_rate else "",
        ]
        for point in points
    )
    return "\n".join(["### What it took", "", *_table(heads, rows)])


def _table(heads: list[str], rows: Iterator[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head.replace('|', PIPE) for head in heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', PIPE) for cell in row)} |"
