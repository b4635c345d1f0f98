"""Pictures of an evaluation: scores, or divergence and agreement, over the budget."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..options.retention_options import SCOPES
from ..report.budget_axis import label_budgets
from ..report.style import FAINT, INK, Picture, add_legend, new_figure, series, styled
from .arms import compared
from .points import Interval, Point
from .text_points import TextPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AnyPoint = TypeVar("AnyPoint", Point, TextPoint)

_DODGE = 0.02  # of the axis, between the intervals of two methods


def score_picture(task: str, title: str, points: Sequence[Point]) -> Picture:
    """Mean score of each method over its budgets, with 95% intervals; the full cache is a line across.

    Parameters
    ----------
    task : its name, for the file.
    points : of one task, or of several together; more than the full cache's.
    """
    with styled():
        figure = new_figure()
        axes = figure.add_subplot()
        _draw_methods(axes, points, lambda point: point.accuracy, 100)
        for point in (point for point in points if point.is_full):
            mean, low, high = (100 * value for value in point.accuracy)
            axes.axhline(mean, color=INK, linewidth=1.2, label=f"{point.method} cache", zorder=1)
            axes.axhspan(low, high, color=FAINT, alpha=0.35, linewidth=0, zorder=0)
        axes.set(ylim=(-3, 103), ylabel="score, %")
        add_legend(figure, axes)
    return Picture(f"quality-{_file_name(task)}", title, f"{points[0].n_questions:,} questions.", figure)


def text_picture(task: str, title: str, points: Sequence[TextPoint]) -> Picture:
    """Mean KL from the full cache and agreement with it, of each method over its budgets, with 95% intervals."""
    with styled():
        figure = new_figure()
        left, right = figure.subplots(1, 2)
        _draw_methods(left, points, lambda point: point.kl, 1)
        _draw_methods(right, points, lambda point: point.agreement, 100)
        left.set(title="mean KL, nats", ylim=(0, None))
        right.set(title="same likeliest token, %")
        add_legend(figure, left)
    caption = f"{points[0].n_tokens:,} tokens, those of the second half of each window."
    return Picture(_file_name(task), title, caption, figure)


def _file_name(task: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", task.lower()).strip("-")


def _draw_methods(axes: Axes, points: Sequence[AnyPoint], value: Callable[[AnyPoint], Interval], unit: float) -> None:
    arms = [point for point in points if not point.is_full]
    methods = list(dict.fromkeys(point.method for point in arms))
    cells = [point.n_budget for point in arms]
    dodge = _DODGE * (np.log(max(cells) / min(cells)) or 1.0)
    for number, (method, look) in enumerate(_looks(methods).items()):
        own = sorted((point for point in arms if point.method == method), key=lambda point: point.n_budget)
        mean, low, high = unit * np.array([value(point) for point in own]).T
        axes.errorbar(
            # side by side, so that one interval does not hide another
            np.array([point.n_budget for point in own]) * np.exp(dodge * (number - (len(methods) - 1) / 2)),
            mean,
            yerr=(np.maximum(mean - low, 0), np.maximum(high - mean, 0)),
            capsize=2.5,
            elinewidth=1,
            label=method.replace("$", r"\$"),  # not the start of a formula
            **look,
        )
    label_budgets(axes, [(point.budget, point.n_budget) for point in arms])


def _looks(methods: list[str]) -> dict[str, dict[str, Any]]:
    """A policy looks the same in every picture, its scopes differ in dash; methods of one name are told apart."""
    names = [method.partition(" ")[0].partition(":") for method in methods]
    if len(set(names)) < len(names):
        return {method: series(number) for number, method in enumerate(methods)}
    dashes = [SCOPES.index(scope) if scope else 0 for _, _, scope in names]
    policies = compared()
    return {method: series(policies.index(name[0]), dash) for method, name, dash in zip(methods, names, dashes)}
