"""Pictures of an audit: divergence and agreement over the budget, and where in the texts it diverges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..options.archive import share_text
from ..report.budget_axis import label_budgets
from ..report.style import FAINT, INK, Picture, add_legend, new_figure, series, styled
from .result import Audit, BudgetAudit
from .verdict import Bound

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STRETCHES = 240  # parts of the texts that a mean is taken over


def divergence_pictures(audit: Audit, bound: Bound) -> list[Picture]:
    """The pictures of an audit in which something was evicted; none otherwise."""
    budgets = [one for one in audit.budgets if one.evicts]
    return [_over_budget(budgets, bound), _along_texts(audit, budgets)] if budgets else []


def _over_budget(budgets: list[BudgetAudit], bound: Bound) -> Picture:
    from matplotlib.ticker import LogLocator

    with styled():
        figure = new_figure(height=3.6)
        left, right = figure.subplots(1, 2)
        for dash, recall in enumerate(dict.fromkeys(one.recall for one in budgets)):
            _draw_budgets(left, right, [one for one in budgets if one.recall == recall], dash)
        left.set(yscale="log", title="KL from the full cache, nats")
        left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # powers of ten alone may all lie outside
        left.yaxis.set_major_formatter("{x:g}")
        least = 100 * min(one.summary.agreement for one in budgets)
        right.set(title="same likeliest token, %", ylim=(min(least - 5, 95), 100.5))
        _draw_files(left, right, budgets)
        if bound.max_kl:
            left.axhline(bound.max_kl, color=INK, linestyle="--", linewidth=1.2, label="bound of the mean")
        if bound.min_agreement is not None:
            right.axhline(100 * bound.min_agreement, color=INK, linestyle="--", linewidth=1.2)
        for axes in (left, right):
            label_budgets(axes, [(str(one.budget), one.cells) for one in budgets])
        add_legend(figure, left)
    caption = (
        "How far the next-token distributions are from those of the full cache: the mean over all tokens, and what 95"
        " and 99 of 100 tokens stay below; and how often both hold the same token likeliest. The level dashed line is your"
        " bound."
    )
    if len(budgets[0].files) > 1:
        caption += " Small dots are the single files, every one of which the bound must hold for."
    return Picture("divergence-over-budget", "Divergence and agreement", caption, figure)


def _draw_budgets(left: Axes, right: Axes, budgets: list[BudgetAudit], dash: int) -> None:
    """KL and agreement of the budgets with one share of recalled cells."""
    recall = f", {share_text(budgets[0].recall)} recall" if budgets[0].recall else ""
    cells = [one.cells for one in budgets]
    kl = [[one.summary.kl_mean, one.summary.kl_95, one.summary.kl_99] for one in budgets]
    for number, (label, values) in enumerate(zip(("mean", "95%", "99%"), zip(*kl))):
        left.plot(cells, values, label=label + recall, **series(number, dash))
    right.plot(cells, [100 * one.summary.agreement for one in budgets], label="agreement" + recall, **series(0, dash))


def _draw_files(left: Axes, right: Axes, budgets: list[BudgetAudit]) -> None:
    """A dot for the mean KL and the agreement of each file, where there are several."""
    for one in budgets:
        for summary in one.files.values() if len(one.files) > 1 else ():
            left.plot(one.cells, summary.kl_mean, ".", color=series(0)["color"], alpha=0.5)
            right.plot(one.cells, 100 * summary.agreement, ".", color=series(0)["color"], alpha=0.5)


def _along_texts(audit: Audit, budgets: list[BudgetAudit]) -> Picture:
    lengths = [len(text.tokens) - 1 for text in audit.texts]
    n = sum(lengths)
    edges = np.unique(np.linspace(0, n, min(n, _STRETCHES) + 1).round().astype(int))
    with styled():
        figure = new_figure(height=3.4)
        axes = figure.add_subplot()
        for number, one in enumerate(budgets):
            kl = np.concatenate([part.kl for part in one.divergences])
            mean = np.add.reduceat(kl, edges[:-1]) / np.diff(edges)
            look = series(number) | {"marker": ""}
            axes.plot((edges[:-1] + edges[1:]) / 2, mean, linewidth=1.2, label=f"{one.name} ({one.cells:,})", **look)
        for end in np.cumsum(lengths)[:-1]:
            axes.axvline(end, color=FAINT, linewidth=1)
        axes.set(xlabel="token", ylabel="KL, nats", xlim=(0, n), ylim=(0, None))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        add_legend(figure, axes)
    caption = f"KL along the texts, the mean of about {max(1, round(n / (len(edges) - 1))):,} tokens at each point."
    if len(lengths) > 1:
        caption += " A vertical line is where the next text begins, read from an empty cache."
    return Picture("divergence-along-text", "Where in the text it diverges", caption, figure)
