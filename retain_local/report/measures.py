"""The numbers of the pictures, from what became of every cell of a text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .recorder import HELD, Trace

Array = npt.NDArray[np.float64]

_SAMPLED = 2048  # positions that a mean of β^age is taken over


def held_by(trace: Trace) -> npt.NDArray[np.int64]:
    """How many cell lists hold each position at the end, [n]."""
    return (trace.evicted_at == HELD).sum(axis=0)


def cells_of(trace: Trace) -> npt.NDArray[np.int64]:
    """How many cells each cell list holds at the end, [n_cell_lists]."""
    return (trace.evicted_at == HELD).sum(axis=1)


def by_layer_and_head(trace: Trace, values: npt.ArrayLike) -> Array:
    """A value of each cell list as a grid [n_heads, n_layers], NaN where a layer has fewer heads than others."""
    column = {layer: i for i, layer in enumerate(trace.layers)}
    grid = np.full((1 + max(head for _, head in trace.cell_lists), len(column)), np.nan)
    for (layer, head), value in zip(trace.cell_lists, np.asarray(values)):
        grid[head, column[layer]] = value
    return grid


def held_over_time(trace: Trace, n_times: int, n_buckets: int) -> Array:
    """Share of the cell lists that hold the positions of a bucket, at times of the reading: [n_buckets, n_times].

    Time j is when (j + 1)/n_times of the text had been read; bucket i begins at i/n_buckets of it. NaN where nothing of
    a bucket had been read.
    """
    n = trace.n_tokens
    times = _cuts(n, n_times)[1:]
    edges = _cuts(n, n_buckets)
    _, position = np.nonzero(trace.evicted_at != HELD)
    when = trace.evicted_at[trace.evicted_at != HELD]
    bucket = np.searchsorted(edges, position, side="right") - 1
    evicted = np.zeros((n_buckets, n_times))
    np.add.at(evicted, (bucket, np.searchsorted(times, when)), 1)
    read = len(trace.cell_lists) * np.clip(times - edges[:-1, None], 0, np.diff(edges)[:, None])
    with np.errstate(invalid="ignore"):  # 0/0 where nothing had been read
        return (read - evicted.cumsum(axis=1)) / read


def ages(trace: Trace, count: int) -> npt.NDArray[np.int64]:
    """About so many ages from 1 to half of the text, evenly spaced in their logarithm."""
    return np.unique(np.geomspace(1, max(1, trace.n_tokens // 2), count).round().astype(np.int64))


def kept_at_age(trace: Trace, at: npt.NDArray[np.int64]) -> Array:
    """Share of the cells of each layer that lived for more than so many tokens, [n_layers, n_ages].

    Only cells that entered long enough before the end are counted. A cell at position p enters as token p + 1, and has
    age a when p + 1 + a tokens have been seen.
    """
    n = trace.n_tokens
    life = trace.evicted_at.astype(np.int64) - (1 + np.arange(n))
    kept = np.stack([(life[:, : max(1, n - age)] > age).mean(axis=1) for age in at], axis=1)  # 1: a text of one token
    return _mean_of_layers(trace, kept)


def beta_at_age(trace: Trace, at: npt.NDArray[np.int64]) -> Array:
    """Mean of β^age over the cells of each layer, [n_layers, n_ages], of positions spread evenly over the text."""
    positions = np.unique(np.linspace(0, trace.n_tokens - 1, _SAMPLED).astype(int))
    assert trace.log_beta is not None, "without gates there is no β"
    log_beta = trace.log_beta[:, positions].astype(np.float64)
    return _mean_of_layers(trace, np.stack([np.exp(age * log_beta).mean(axis=1) for age in at], axis=1))


def _mean_of_layers(trace: Trace, values: Array) -> Array:
    """From a row for each cell list to one for each layer."""
    layer = np.array([layer for layer, _ in trace.cell_lists])
    return np.stack([values[layer == one].mean(axis=0) for one in trace.layers])


def _cuts(n: int, count: int) -> npt.NDArray[np.int64]:
    return (np.arange(count + 1) * n) // count
