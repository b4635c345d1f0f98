"""A picture of what a cache keeps: rows are layers and heads, columns are positions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from rich.console import Group
from rich.text import Text

from ..retention import Retention

_SHADES = " ░▒▓█"  # from nothing kept to all kept
_COUNTS = "cells"


def kept_share(retention: Retention, layer: int, head: int, edges: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Share of the positions in each bucket that a cell list keeps, [n_buckets].

    Parameters
    ----------
    edges : positions where the buckets begin and the last one ends, ascending, [n_buckets + 1].
    """
    counts, _ = np.histogram(retention.positions(layer, head), edges)
    return counts / np.diff(edges)


def render_cache_map(retention: Retention, width: int, height: int) -> Group:
    """Draw the cache into at most `width` columns and about `height` rows of text.

    Each row is a KV head of a layer, or the mean over a layer's heads where there are too many. At its end is how many
    cells it holds.
    """
    n_seen = retention.stats().tokens_seen
    if not n_seen:
        return Group(Text("the cache is empty"))
    cell_lists = [(layer, head) for layer in retention.layers for head in range(retention.heads(layer))]
    by_head = len(cell_lists) <= max(1, height - 3)
    rows = [(f"{layer}.{head}", [(layer, head)]) for layer, head in cell_lists]
    if not by_head:
        rows = [(str(layer), [one for one in cell_lists if one[0] == layer]) for layer in retention.layers]
    counts = [f"{sum(len(retention.positions(*cell_list)) for cell_list in of_row):,}" for _, of_row in rows]
    label_width = max(len(label) for label, _ in rows) + 1
    count_width = max(map(len, [_COUNTS, *counts])) + 1
    n_buckets = max(1, min(width - label_width - count_width, n_seen))
    edges = np.linspace(0, n_seen, n_buckets + 1).round().astype(np.int64)

    lines = [Text(f"{'':{label_width}}{_scale(n_seen, n_buckets):{n_buckets}}{_COUNTS:>{count_width}}", style="dim")]
    for (label, of_row), count in zip(rows, counts):
        row = Text(f"{label:>{label_width - 1}} ", style="dim")
        row.append(
            _shade(np.mean([kept_share(retention, *cell_list, edges) for cell_list in of_row], axis=0)), style="cyan"
        )
        lines.append(row.append(f"{count:>{count_width}}", style="dim"))
    unit = "layer.head" if by_head else "layer (mean of its heads)"
    each = n_seen / n_buckets
    legend = f"rows: {unit} · columns: {each:.1f} positions each · {_SHADES[1]} some kept to {_SHADES[-1]} all kept"
    return Group(*lines, Text(legend, style="dim"))


def _scale(n_seen: int, width: int) -> str:
    last = f"{n_seen - 1}"
    return "0" + last.rjust(width - 1) if width > len(last) + 1 else ""


def _shade(shares: npt.NDArray[np.float64]) -> str:
    # a bucket that keeps anything is never drawn as empty, and one that lost anything never as full
    levels = np.where(shares >= 1, len(_SHADES) - 1, np.ceil(shares * (len(_SHADES) - 2))).astype(int)
    return "".join(_SHADES[level] for level in levels)
