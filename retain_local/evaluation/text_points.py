"""From the records of a text to the numbers of its table: one point for each arm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .arms import FULL
from .intervals import mean_interval, normal_interval
from .merge import Results
from .points import Interval
from .records import Record


@dataclass(frozen=True)
class TextPoint:
    """One arm on one text.

    method, budget, is_full : as in `Point`.
    n_tokens : that were scored; n_budget : cells per (layer, KV head), the mean of all windows.
    kl : mean KL(full || cache) in nats and its 95% interval; kl_99 : 99th percentile.
    agreement : share of the tokens where both hold the same token likeliest, with its interval.
    perplexity : of the tokens; ratio : over that of the full cache, with its interval.
    """

    method: str
    budget: str
    is_full: bool
    n_tokens: int
    n_budget: float
    kl: Interval
    kl_99: float
    agreement: Interval
    perplexity: float
    ratio: Interval


def text_points(results: Results) -> dict[str, list[TextPoint]]:
    """For each text a point of each arm that was read like the full cache, in the order in which they first occur.

    Intervals take windows as groups.
    """
    points: dict[str, list[TextPoint]] = {}
    for label, records in results.items():
        by_arm: dict[tuple[str, str], list[Record]] = {}
        for record in records:
            if record.is_text:
                by_arm.setdefault((record.task, record.arm), []).append(record)
        for (task, arm), own in by_arm.items():
            of_task = points.setdefault(task, [])
            if arm == FULL and any(point.is_full for point in of_task):
                continue
            full = {record.item: record for record in by_arm.get((task, FULL), [])}
            if both := [record for record in own if _is_like(record, full.get(record.item))]:
                of_task.append(_point(label, both, full))
    return {task: of_task for task, of_task in points.items() if of_task}


def _is_like(record: Record, full: Record | None) -> bool:
    return full is not None and len(full.nll) == len(record.nll)


def _point(label: str, records: Sequence[Record], full: dict[int, Record]) -> TextPoint:
    first = records[0]
    more = [np.subtract(record.nll, full[record.item].nll).tolist() for record in records]
    mean, low, high = normal_interval([record.kl for record in records])
    ratio, low_ratio, high_ratio = normal_interval(more)
    return TextPoint(
        method=f"{first.method} ({label})" if label else first.method,
        budget=first.budget,
        is_full=first.arm == FULL,
        n_tokens=sum(len(record.kl) for record in records),
        n_budget=sum(record.n_budget for record in records) / len(records),
        kl=(mean, max(0.0, low), high),
        kl_99=float(np.quantile(np.concatenate([record.kl for record in records]), 0.99)),
        agreement=mean_interval([record.scores for record in records]),
        perplexity=float(np.exp(np.mean(np.concatenate([record.nll for record in records])))),
        ratio=(math.exp(ratio), math.exp(low_ratio), math.exp(high_ratio)),
    )
