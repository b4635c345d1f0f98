"""Watching which archived cells are recalled while a text is read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..retention.retention import Retention

MOST_NAMED = 40  # tokens that are named of a step, those that were recalled most
_BUCKETS = 256  # stretches of the text that a map tells apart


@dataclass(frozen=True)
class Step:
    """What was recalled for tokens that were computed together.

    start, stop : these tokens.
    named : the tokens that were recalled most, with how many of their cells were, all cell lists and tokens together; those
        with the most first.
    buckets : cells that were recalled of each stretch of the text, [n_buckets].
    """

    start: int
    stop: int
    named: list[tuple[int, int]]
    buckets: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Recalls:
    """What was recalled while a text of n tokens was read.

    steps : in their order.
    by_token : how many of the cells of each token were recalled, over all steps and cell lists, int64 [n].
    edges : where the stretches of `Step.buckets` begin and the last one ends, [n_buckets + 1].
    n_cell_lists : (layer, KV head) pairs.
    """

    steps: list[Step]
    by_token: npt.NDArray[np.int64]
    edges: npt.NDArray[np.int64]
    n_cell_lists: int

    def data(self) -> dict[str, list[int] | list[list[object]]]:
        """For a page's script: how often each token was recalled, and for each step its tokens and whom it recalled."""
        steps: list[list[object]] = [[step.start, step.stop, step.named] for step in self.steps if step.named]
        return {"recalled": self.by_token.tolist(), "steps": steps}


class RecallRecorder:
    """Notes what is recalled, step by step, from the counts that the archive keeps of its cells.

    Parameters
    ----------
    retention : of the cache, which was empty.
    n_tokens : of the text.
    """

    def __init__(self, retention: Retention, n_tokens: int) -> None:
        self._retention, self._n = retention, n_tokens
        self._cell_lists = [(layer, head) for layer in retention.layers for head in range(retention.heads(layer))]
        self._before = np.zeros((len(self._cell_lists), n_tokens), np.uint32)
        n_buckets = min(_BUCKETS, n_tokens)
        self._edges = (np.arange(n_buckets + 1) * n_tokens) // n_buckets
        self._by_token = np.zeros(n_tokens, np.int64)
        self._steps: list[Step] = []

    def note(self, start: int, stop: int) -> None:
        """Take in what was recalled for the tokens [start, stop), which were computed just now."""
        counts = np.zeros(self._n, np.int64)
        for before, cell_list in zip(self._before, self._cell_lists):
            archived = self._retention.archived(*cell_list)
            at, now = archived.ordinals, archived.n_recalled
            # a count that is smaller than before began anew, when the full archive let cells go
            counts[at] += np.where(now >= before[at], now - before[at], now).astype(np.int64)
            before[at] = now
        self._by_token += counts
        found = np.flatnonzero(counts)
        most = found[np.argsort(-counts[found], kind="stable")][:MOST_NAMED]
        named = [(int(token), int(counts[token])) for token in most]
        self._steps.append(Step(start, stop, named, np.add.reduceat(counts, self._edges[:-1])))

    def recalls(self) -> Recalls:
        """All that was noted."""
        return Recalls(self._steps, self._by_token, self._edges, len(self._cell_lists))
