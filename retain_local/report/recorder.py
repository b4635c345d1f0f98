"""Watching a cache while it reads: when each cell was evicted, and the log β that it came with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..retention.retention import Retention

HELD = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Trace:
    """What became of every cell of a text of n tokens. Rows are cell lists, columns are tokens.

    cell_lists : (layer, KV head) of each row.
    budget : M, cells per cell list on average.
    evicted_at : tokens seen at the eviction that took the cell, int32 [n_cell_lists, n]; `HELD` where none did.
    log_beta : of the cell, float32 [n_cell_lists, n]; None without gates, and with static ones.
    """

    cell_lists: tuple[tuple[int, int], ...]
    budget: int
    evicted_at: npt.NDArray[np.int32]
    log_beta: npt.NDArray[np.float32] | None

    @property
    def n_tokens(self) -> int:
        return self.evicted_at.shape[1]

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that have a cache, each once."""
        return tuple(dict.fromkeys(layer for layer, _ in self.cell_lists))


class Recorder:
    """Notes what becomes of the cells of a text while a cache that was empty reads it. A context manager.

    It watches through the eviction hook, which sees every cell before an eviction, in place of a scorer that may be
    there; the policy scores as it does without. What an eviction took is what the next one no longer sees.

    Parameters
    ----------
    retention : of the cache.
    n_tokens : of the text.

    Attributes
    ----------
    n_read : int or None
        Tokens read when the next ones come, for whoever reads a text with pictures; None: it follows from the positions.
    """

    def __init__(self, retention: Retention, n_tokens: int) -> None:
        self._retention = retention
        self._n = n_tokens
        self._cell_lists = tuple((layer, head) for layer in retention.layers for head in range(retention.heads(layer)))
        layers, heads = np.array(self._cell_lists).T
        self._row = np.zeros((layers.max() + 1, heads.max() + 1), np.int64)
        self._row[layers, heads] = np.arange(len(self._cell_lists))
        self.n_read: int | None = None
        # cells are numbers: row · n + ordinal
        self._log_beta = np.zeros(len(self._cell_lists) * n_tokens, np.float32)
        self._evicted_at = np.full(len(self._cell_lists) * n_tokens, HELD, np.int32)
        self._seen = np.zeros(len(self._cell_lists) * n_tokens, bool)  # scratch
        self._known: npt.NDArray[np.int64] = np.empty(0, np.int64)  # held when their cell list was last looked at
        self._decays = retention.has_gates and not retention.has_static_gates
        self._last_eviction = np.zeros(len(self._cell_lists), np.int32)  # tokens seen, for each row

    def __enter__(self) -> Recorder:
        self._retention.set_scorer(self._before_eviction)
        return self

    def __exit__(self, *_: object) -> None:
        self._retention.set_scorer(None)

    def _before_eviction(
        self,
        layer: npt.NDArray[np.int32],
        head: npt.NDArray[np.int32],
        pos: npt.NDArray[np.int32],
        log_beta: npt.NDArray[np.float32],
        age: npt.NDArray[np.int32],
    ) -> None:
        rows = self._row[layer, head]
        looked_at = np.bincount(rows, minlength=len(self._cell_lists)) > 0  # layers of one device are evicted together
        n_seen = int(pos[0] + age[0] - 1) if self.n_read is None else self.n_read
        self._note(rows * self._n + (n_seen + 1 - age).astype(np.int64), log_beta, looked_at)
        self._last_eviction[looked_at] = n_seen

    def _note(
        self, cells: npt.NDArray[np.int64], log_beta: npt.NDArray[np.float32], looked_at: npt.NDArray[np.bool_]
    ) -> None:
        """Take in all cells that the cell lists looked at hold now; the others of them went at the last eviction."""
        self._log_beta[cells] = log_beta
        self._seen[cells] = True
        here = looked_at[self._known // self._n]
        gone = self._known[here & ~self._seen[self._known]]
        self._evicted_at[gone] = self._last_eviction[gone // self._n]
        self._seen[cells] = False
        self._known = np.concatenate([self._known[~here], cells])

    def trace(self) -> Trace:
        """What became of the cells, when all of the text was read."""
        self._retention._raise_scorer_error()
        for row, cell_list in enumerate(self._cell_lists):
            cells = row * self._n + self._retention.ordinals(*cell_list).astype(np.int64)
            self._note(cells, self._retention.log_beta(*cell_list), np.arange(len(self._cell_lists)) == row)
        shape = len(self._cell_lists), self._n
        log_beta = self._log_beta.reshape(shape) if self._decays else None
        return Trace(self._cell_lists, self._retention.budget, self._evicted_at.reshape(shape), log_beta)
