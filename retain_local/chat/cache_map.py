"""A drawing of what a cache keeps: rows are layers and heads, columns are stretches of the text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

import numpy as np
import numpy.typing as npt
from rich.console import Group
from rich.text import Text

from ..retention.retention import Retention

_SHADES = " ░▒▓█"  # from nothing kept to all kept
_COUNTS, _ARCHIVED_COUNTS = "cells", "archived"
_ARCHIVED = "·"  # nothing kept, but something archived
_TEXT, _PICTURE = "cyan", "magenta"
_PICTURE_MARK = "▔"

Stretches = Sequence[tuple[int, int]]  # of tokens, [start, stop)


def kept_share(retention: Retention, layer: int, head: int, edges: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Share of the tokens in each bucket that a cell list keeps, [n_buckets].

    Parameters
    ----------
    edges : tokens where the buckets begin and the last one ends, ascending, [n_buckets + 1].
    """
    counts, _ = np.histogram(retention.ordinals(layer, head), edges)
    return counts / np.diff(edges)


def _is_archived(retention: Retention, layer: int, head: int, edges: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether the archive holds a cell of the list in each bucket, [n_buckets]."""
    counts, _ = np.histogram(retention.archived(layer, head).ordinals, edges)
    return counts > 0


def render_cache_map(retention: Retention, width: int, height: int, pictures: Stretches = ()) -> Group:
    """Draw the cache into at most `width` columns and about `height` rows of text.

    Each row is a KV head of a layer, or the mean over a layer's heads where there are too many. At its end is how many
    cells it holds.

    Parameters
    ----------
    pictures : the tokens of each picture, whose columns have a line above them and another colour.
    """
    stats = retention.stats()
    n_seen, has_archive = stats.tokens_seen, stats.cells_archived > 0
    if not n_seen:
        return Group(Text("the cache is empty"))
    cell_lists = [(layer, head) for layer in retention.layers for head in range(retention.heads(layer))]
    by_head = len(cell_lists) <= max(1, height - 3)
    rows = [(f"{layer}.{head}", [(layer, head)]) for layer, head in cell_lists]
    if not by_head:
        rows = [(str(layer), [one for one in cell_lists if one[0] == layer]) for layer in retention.layers]
    columns = [[_COUNTS, *(f"{sum(len(retention.ordinals(*one)) for one in of_row):,}" for _, of_row in rows)]]
    if has_archive:
        of_rows = (sum(len(retention.archived(*one).ordinals) for one in of_row) for _, of_row in rows)
        columns.append([_ARCHIVED_COUNTS, *(f"{n:,}" for n in of_rows)])
    widths = [max(map(len, column)) + 1 for column in columns]
    head, *counts = ("".join(f"{text:>{width}}" for text, width in zip(row, widths)) for row in zip(*columns))
    label_width = max(len(label) for label, _ in rows) + 1
    n_buckets = max(1, min(width - label_width - sum(widths), n_seen))
    edges = np.linspace(0, n_seen, n_buckets + 1).round().astype(np.int64)

    is_picture = _touched(edges, pictures)
    lines = [Text(f"{'':{label_width}}{_scale(n_seen, n_buckets):{n_buckets}}{head}", style="dim")]
    if pictures:
        marks = "".join(_PICTURE_MARK if touched else " " for touched in is_picture)
        lines.append(Text(f"{'':{label_width}}{marks}", style=_PICTURE))
    for (label, of_row), count in zip(rows, counts):
        row = Text(f"{label:>{label_width - 1}} ", style="dim")
        shades = _shade(np.mean([kept_share(retention, *cell_list, edges) for cell_list in of_row], axis=0))
        if has_archive:
            archived = np.any([_is_archived(retention, *cell_list, edges) for cell_list in of_row], axis=0)
            shades = "".join(
                _ARCHIVED if is_in and shade == _SHADES[0] else shade for shade, is_in in zip(shades, archived)
            )
        for touched, run in groupby(zip(is_picture, shades), key=itemgetter(0)):
            row.append("".join(shade for _, shade in run), style=_PICTURE if touched else _TEXT)
        lines.append(row.append(count, style="dim"))
    legend = [
        f"rows: {'layer.head' if by_head else 'layer (mean of heads)'}",
        f"columns: {n_seen / n_buckets:.1f} tokens",
        f"{_SHADES[1]} some kept to {_SHADES[-1]} all kept",
        *([f"{_ARCHIVED} archived only"] if has_archive else []),
    ]
    lines += [Text(line, style="dim") for line in _filled(legend, width)]
    if pictures:
        kept = sum(retention.count(*cell_list, pictures) for cell_list in cell_lists)
        seen = len(cell_lists) * sum(stop - start for start, stop in pictures)
        lines.append(Text(f"{_PICTURE_MARK} of a picture: {kept:,} of {seen:,} cells kept", style="dim"))
    return Group(*lines)


def _filled(parts: Sequence[str], width: int) -> list[str]:
    """Lines of as many parts each as fit; a part is not broken."""
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return lines


def _touched(edges: npt.NDArray[np.int64], stretches: Stretches) -> list[bool]:
    """Whether each bucket has a token of one of the stretches."""
    return [
        any(start < right and left < stop for start, stop in stretches) for left, right in zip(edges[:-1], edges[1:])
    ]


def _scale(n_seen: int, width: int) -> str:
    last = f"{n_seen - 1}"
    return "0" + last.rjust(width - 1) if width > len(last) + 1 else ""


def _shade(shares: npt.NDArray[np.float64]) -> str:
    # a bucket that keeps anything is never drawn as empty, and one that lost anything never as full
    levels = np.where(shares >= 1, len(_SHADES) - 1, np.ceil(shares * (len(_SHADES) - 2))).astype(int)
    return "".join(_SHADES[level] for level in levels)
