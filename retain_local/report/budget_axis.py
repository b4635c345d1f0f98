"""The axis that budgets lie on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_APART = 0.12  # of the axis: budgets nearer to each other share a label


def label_budgets(axes: Axes, budgets: Sequence[tuple[str, float]]) -> None:
    """Make the x axis logarithmic, with a tick for each budget.

    Parameters
    ----------
    budgets : as they were asked for, and in cells; those that were asked for alike have the tick of the first.
    """
    cells: dict[str, float] = {}
    for label, n in budgets:
        cells.setdefault(label, n)
    ordered = sorted(cells.items(), key=lambda item: item[1])
    reach = np.log(ordered[-1][1] / ordered[0][1]) or 1.0
    ticks: list[tuple[float, list[str]]] = []
    for label, n in ordered:
        if ticks and np.log(n / ticks[-1][0]) < _APART * reach:
            ticks[-1][1].append(label)
        else:
            ticks.append((n, [label]))
    axes.set(xscale="log", xlabel="budget, cells a head")
    axes.set_xticks([n for n, _ in ticks], [_text(n, labels) for n, labels in ticks])
    axes.minorticks_off()
    axes.margins(x=0.08)


def _text(n: float, labels: list[str]) -> str:
    """The labels, and the number of cells where they are not that number."""
    if labels == [f"{n:.0f}"]:
        return f"{n:,.0f}"
    return f"{', '.join(labels)}\n({n:,.0f})"
