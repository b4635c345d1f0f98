"""The report of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from ..report.files import ReportFiles
from ..report.kept_text import KeptText
from ..report.page import render
from .merge import Results
from .pictures import score_picture, text_picture
from .points import Point, points_by_task, points_together
from .table import COST_HEADS, COSTS, SCORE_HEADS, cost_row, score_row, title_of_several
from .text_points import TextPoint, text_points
from .text_table import TEXT_HEADS, text_row, text_title

_FIRST = ("model", "gates", "items", "seed")
_NAMES = {"items": "questions of each task", "n_ctx": "context"}

Table = tuple[str, Sequence[str], list[list[str]]]  # title, heads, rows


def write_eval_report(
    files: ReportFiles,
    results: Results,
    titles: dict[str, str],
    settings: Sequence[tuple[str, dict[str, Any]]],
    example: str = "",
    kept: Sequence[KeptText] = (),
) -> None:
    """Draw results and write what is wanted of the report.

    Parameters
    ----------
    titles : what is said of a task, where it is more than its name.
    settings : what decided the results, with the label of the run.
    example : the task that the text in `kept` is of.
    kept : what each method keeps of a text.

    Raises
    ------
    RetainError : see `ReportFiles.write`.
    """
    sections = _sections(results, titles)
    texts = [(task, titles.get(task, task), points) for task, points in text_points(results).items()]
    quality = [score_picture(*section) for section in sections if _compares(section[2])]
    quality += [text_picture(*section) for section in texts if _compares(section[2])]
    html = render(
        "eval.html.j2",
        title="What eviction costs",
        runs=[(label, _facts(one)) for label, one in settings],
        quality=quality,
        tables=[*_tables(sections), *_text_tables(texts), *_cost_tables(results)],
        example=titles.get(example, example),
        kept=kept,
    )
    files.write(html, chain(quality, *(one.files() for one in kept)))


def _compares(points: Sequence[Point] | Sequence[TextPoint]) -> bool:
    """Whether there is more than the full cache."""
    return any(not point.is_full for point in points)


def _facts(settings: dict[str, Any]) -> list[tuple[str, str]]:
    """Settings as a reader wants them: the most telling first, and without those that say nothing."""
    flat = {key: value for key, value in settings.items() if key != "parameters"} | settings.get("parameters", {})
    said = {key: value for key, value in flat.items() if value or key in _FIRST}
    order = {key: at for at, key in enumerate(_FIRST)}
    keys = sorted(said, key=lambda key: order.get(key, len(order)))
    return [(_NAMES.get(key, key.removeprefix("n_").replace("_", " ")), str(said[key])) for key in keys]


def _sections(results: Results, titles: dict[str, str]) -> list[tuple[str, str, list[Point]]]:
    """Name, title and points of each task, and before them of all that every arm was asked."""
    by_task = points_by_task(results)
    sections = [(task, titles.get(task, task), points) for task, points in by_task.items()]
    common, together = points_together(results)
    if len(common) > 1:
        sections.insert(0, ("together", title_of_several(common, len(by_task)), together))
    return sections


def _tables(sections: list[tuple[str, str, list[Point]]]) -> list[Table]:
    return [
        (f"{title}, {points[0].n_questions:,} questions", SCORE_HEADS, [score_row(point) for point in points])
        for _, title, points in sections
    ]


def _text_tables(sections: list[tuple[str, str, list[TextPoint]]]) -> list[Table]:
    return [
        (text_title(title, points), TEXT_HEADS, [text_row(point) for point in points]) for _, title, points in sections
    ]


def _cost_tables(results: Results) -> list[Table]:
    """What each arm took; none where nothing was asked."""
    _, together = points_together(results)
    return [(COSTS, COST_HEADS, [cost_row(point) for point in together])] if together else []
