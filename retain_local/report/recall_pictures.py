"""The picture of what was recalled while a text was read."""

from __future__ import annotations

import numpy as np

from .recalls import Recalls
from .style import SHARES, Picture, new_figure, styled


def recall_picture(recalls: Recalls, name: str) -> Picture:
    """Which stretches of the text the tokens of each step recalled."""
    n = int(recalls.edges[-1])
    lengths = np.array([step.stop - step.start for step in recalls.steps])
    tokens = np.diff(recalls.edges)
    cells = np.stack([step.buckets for step in recalls.steps], axis=1)  # [n_buckets, n_steps]
    share = 100 * cells / (recalls.n_cell_lists * lengths * tokens[:, None])
    starts = [step.start for step in recalls.steps]
    with styled(**{"axes.grid": False}):
        figure = new_figure(height=4.4)
        axes = figure.add_subplot()
        mesh = axes.pcolormesh([*starts, recalls.steps[-1].stop], recalls.edges, share, cmap=SHARES, rasterized=True)
        axes.set(xlabel="tokens read", ylabel="position", xlim=(0, n), ylim=(0, n))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        bar = figure.colorbar(mesh, ax=axes, label="% of the heads, for a token")
        bar.outline.set_visible(False)
        if bar.solids is not None:
            bar.solids.set_rasterized(True)
    caption = (
        "Each column is a step of the reading, each row a stretch of the text: the colour is how many of the heads of all"
        " layers recalled a token of that stretch from the archive, on average for a token of that step. A row that stays"
        " light is asked for again and again."
    )
    return Picture(f"{name}-recalled", "What was recalled while the text was read", caption, figure)
