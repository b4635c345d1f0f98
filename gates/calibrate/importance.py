"""What the cells of a text are worth to the tokens that come later.

To evict cell i changes what a later query t of its group computes: of the softmax weight a of the cell nothing is left, the
other weights grow by 1/(1 - a), and the output of the head, after the output projection W, moves by

    a / (1 - a) · W(o - v_i)

with o the head's output. Its square is what is summed here. That is KVzip+'s weight (a times the size of W·v; arXiv
2601.07891), but exact for the eviction of one cell, and squared, as errors of many cells add up by squares. `Reader` takes it
relative to the residual stream that the layer leaves behind, both as the next norm weights them; KVzip+ takes the stream that
the layer reads. Where a norm stands behind W, as in Gemma 3, the change is divided by the size that the norm divides W·o of all
heads by, at each query. (The norm also takes away the part of a change that lies along its output; that is left out.)
KVzip (arXiv 2505.23416) takes the largest weight that any query of the text's repetition gives to a cell. A mean over
the queries is what a regression can foresee better, and the text's own later tokens count much more than its repetition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from .metric import OutputMetric
from .watch import Attention, Floats

BLOCK = 128  # queries at once
Each = Callable[[Callable[[int], None], Iterable[int]], Iterable[None]]
MOST_WEIGHT = 0.95  # a cell that has all the weight would count without end
TEXT_WEIGHT = 25  # of the mean over the text's own queries, beside that over its repetition


class LayerImportance:
    """The sums of one layer over one document: a text of n_text tokens, and from `n_repeat` on its first cells again.

    Parameters
    ----------
    metric : of the layer's output projection, and of the norm behind it if there is one.
    n_cells : the first cells are judged, those of the tokens that are repeated.
    n_text, n_repeat : tokens of the text; position of the first query of its repetition. What lies between is read and
        not counted.
    least_age : a query of the text counts for cells that are as old at least: what is newer is kept by any policy. Of a block of queries
        it is the first one that must be as far away.
    block : queries that are worked on at once.
    each : as `map`, and may call the function for several heads at once.
    """

    def __init__(
        self,
        metric: OutputMetric,
        n_cells: int,
        n_text: int,
        n_repeat: int,
        least_age: int,
        block: int = BLOCK,
        each: Each = map,
    ) -> None:
        self._metric = metric
        self._n_cells, self._n_text, self._n_repeat, self._least_age = n_cells, n_text, n_repeat, least_age
        self._block, self._each, self._n_read = block, each, 0
        self._k: Floats | None = None
        self._v: list[Floats] = []
        n_head, d_v, _ = metric.heads.shape
        # sums over queries of w·o, w and w·|W·o|², where w = (a / (1 - a))², over the norm's divisor
        self._sums = np.zeros((n_head, n_cells, d_v + 2), np.float32)
        self._hidden: list[Floats] = []
        self._is_repeating = False

    def add(self, attention: Attention) -> None:
        """Take in the next tokens of the document."""
        n = len(attention.q)
        if self._n_read < self._n_cells:
            self._hidden.append(attention.hidden[: self._n_cells - self._n_read])
        k = attention.k.transpose(1, 0, 2)
        self._k = k if self._k is None else np.concatenate([self._k, k], axis=1)
        if self._n_read < self._n_cells:
            self._v.append(attention.v[: self._n_cells - self._n_read])
        for start in range(0, n, self._block):
            self._add_block(attention, slice(start, min(start + self._block, n)))
        self._n_read += n

    def _add_block(self, attention: Attention, rows: slice) -> None:
        first, last = self._n_read + rows.start, self._n_read + rows.stop
        position = np.arange(first, last)
        is_counted = (position < self._n_text) | (position >= self._n_repeat)
        if first >= self._n_repeat:
            n_counted = self._n_cells
        else:
            n_counted = min(self._n_cells, max(0, first - self._least_age + 1))
        if n_counted == 0 or not is_counted.any():
            return
        if first >= self._n_repeat and not self._is_repeating:
            self._end_text()
        group = attention.q.shape[1] // attention.k.shape[1]
        factor = is_counted / self._metric.divisor(attention.out[rows])

        def add_head(head: int) -> None:
            weights, total = self._exponentials(attention, rows, head, head // group, last)
            weights = weights[:, :n_counted]
            np.minimum(weights, MOST_WEIGHT * total, out=weights)
            weights /= total - weights
            np.square(weights, out=weights)
            out = attention.out[rows, head]
            size = ((out @ self._metric.heads[head]) * out).sum(axis=1)
            terms = np.column_stack([out, np.ones_like(size), size]) * factor[:, None]
            self._sums[head, :n_counted] += weights.T @ terms

        for _ in self._each(add_head, range(attention.q.shape[1])):
            pass

    def _exponentials(
        self, attention: Attention, rows: slice, head: int, kv_head: int, n_keys: int
    ) -> tuple[Floats, Floats]:
        """Of one head's softmax the numerators, [queries, n_keys], and the denominators, [queries, 1]."""
        assert self._k is not None
        n = rows.stop - rows.start
        q = attention.q[rows, head] * np.float32(attention.scale)
        x: Floats = (q @ self._k[kv_head, :n_keys].T).astype(np.float32, copy=False)
        if attention.softcap:
            x /= attention.softcap
            np.tanh(x, out=x)
            x *= attention.softcap
        x[:, n_keys - n :][np.triu_indices(n, 1)] = -np.inf
        top = x.max(axis=1, keepdims=True)
        if attention.sinks is not None:
            np.maximum(top, attention.sinks[head], out=top)
        x -= top
        np.exp(x, out=x)
        total = x.sum(axis=1, keepdims=True)
        if attention.sinks is not None:
            total += np.exp(attention.sinks[head] - top)
        return x, total

    def _end_text(self) -> None:
        """Make means of the sums over the text's queries, and weigh them beside the repetition."""
        self._is_repeating = True
        n_queries = self._n_text - self._least_age - np.arange(self._n_cells)
        # as many queries repeat them as there are cells
        share = (TEXT_WEIGHT * self._n_cells / np.maximum(n_queries, 1)).astype(np.float32)
        self._sums *= share[:, None]

    def result(self) -> tuple[Floats, npt.NDArray[np.float64]]:
        """Hidden states [n_cells, n_embd] float32 and importances [H_kv, n_cells] float64 of the cells.

        An importance is the mean over the repetition's queries, and `TEXT_WEIGHT` times that over the text's later ones, of what
        an eviction of the cell changes, squared; summed over the query heads of the KV head.
        """
        v = np.concatenate(self._v).transpose(1, 0, 2).astype(np.float64)
        n_head, n_kv = len(self._metric.heads), len(v)
        importance = np.zeros((n_kv, self._n_cells))
        for head in range(n_head):
            own = v[head * n_kv // n_head]
            moved = own @ self._metric.heads[head]
            output, (weight, size) = self._sums[head, :, :-2], self._sums[head, :, -2:].T
            importance[head * n_kv // n_head] += np.maximum(
                weight * (moved * own).sum(axis=1) + size - 2 * (moved * output).sum(axis=1), 0
            )
        return np.concatenate(self._hidden), importance / self._n_cells
