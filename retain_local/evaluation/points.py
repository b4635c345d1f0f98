"""From records to the numbers of the tables: one point for each task and arm."""

from __future__ import annotations

from dataclasses import dataclass

from .arms import FULL
from .intervals import mean_interval, paired_difference
from .merge import Results
from .records import Record

Interval = tuple[float, float, float]  # mean, low, high
Items = dict[tuple[str, int], Record]  # by task and conversation


@dataclass(frozen=True)
class Point:
    """One arm in one task, or in all of them.

    method, budget : as in `Record`; a label of the file is put behind the method.
    is_full : whether this is the full cache.
    n_questions : how many were asked.
    accuracy : mean score and its 95% interval.
    difference : to the full cache on the same questions, and its 95% interval; None without a full cache.
    n_budget : cells per (layer, KV head), the mean of all conversations.
    bytes_peak, bytes_pool : most bytes that the cells took; bytes allocated.
    bytes_archived : most bytes that archived cells took.
    read_rate, write_rate : tokens each second.
    """

    method: str
    budget: str
    is_full: bool
    n_questions: int
    accuracy: Interval
    difference: Interval | None
    n_budget: float
    bytes_peak: int
    bytes_pool: int
    bytes_archived: int
    read_rate: float
    write_rate: float


def points_by_task(results: Results) -> dict[str, list[Point]]:
    """For each task with questions a point of each arm, in the order in which they first occur."""
    tasks = dict.fromkeys(record.task for records in results.values() for record in records if not record.is_text)
    return {task: _points(results, {task}) for task in tasks}


def points_together(results: Results) -> tuple[list[str], list[Point]]:
    """The tasks that every arm has answers of, and a point of each arm over their questions.

    Where nothing was asked there are no such tasks, and the points are over the texts: what the arms took.
    """
    tasks = dict.fromkeys(record.task for records in results.values() for record in records if not record.is_text)
    if not tasks:
        return [], _points(results, {record.task for records in results.values() for record in records})
    by_arm: dict[tuple[str, str], set[str]] = {}
    for label, records in results.items():
        for record in records:
            by_arm.setdefault((label, record.arm), set()).add(record.task)
    common = [task for task in tasks if all(task in of_arm for of_arm in by_arm.values())]
    return common, _points(results, set(common))


def _points(results: Results, tasks: set[str]) -> list[Point]:
    """A point of each arm. A further full cache that answered as the first one did is left out."""
    points: list[Point] = []
    first_full: Items = {}
    for label, records in results.items():
        by_arm: dict[str, Items] = {}
        for record in records:
            if record.task in tasks:
                by_arm.setdefault(record.arm, {})[record.task, record.item] = record
        full = by_arm.get(FULL, {})
        for arm, items in by_arm.items():
            if arm == FULL and first_full and _scores(items) == _scores(first_full):
                continue
            points.append(_point(label, items, {} if arm == FULL else full))
        first_full = first_full or full
    return points


def _scores(items: Items) -> dict[tuple[str, int], list[float]]:
    return {key: record.scores for key, record in items.items()}


def _point(label: str, items: Items, full: Items) -> Point:
    records = list(items.values())
    first = records[0]
    both = [key for key in items if key in full]
    return Point(
        method=f"{first.method} ({label})" if label else first.method,
        budget=first.budget,
        is_full=first.arm == FULL,
        n_questions=sum(len(record.scores) for record in records),
        accuracy=mean_interval([record.scores for record in records]),
        difference=paired_difference([items[key].scores for key in both], [full[key].scores for key in both])
        if both
        else None,
        n_budget=sum(record.n_budget for record in records) / len(records),
        bytes_peak=max(record.bytes_peak for record in records),
        bytes_pool=max(record.bytes_pool for record in records),
        bytes_archived=max(record.bytes_archived for record in records),
        read_rate=_rate(sum(r.n_prompt for r in records), sum(r.read_seconds for r in records)),
        write_rate=_rate(sum(r.n_written for r in records), sum(r.write_seconds for r in records)),
    )


def _rate(n_tokens: int, seconds: float) -> float:
    return n_tokens / seconds if seconds else 0.0
