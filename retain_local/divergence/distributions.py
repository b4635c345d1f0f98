"""Next-token distributions from logits, and how far apart two of them are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ..errors import RetainError

BLOCK_LOGITS = 1 << 20  # worked on at once: 8 MB in float64


def row_blocks(n_rows: int, n_vocab: int) -> Iterator[slice]:
    """Runs of rows that hold some `BLOCK_LOGITS` logits each, in order; one row at least."""
    step = max(1, BLOCK_LOGITS // n_vocab)
    return (slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step))


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Log probabilities of the whole vocabulary, [n, n_vocab], in float64.

    Raises
    ------
    RetainError : a row has a logit that is no number, or an infinite largest one.
    """
    log_p = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):
        log_p -= log_p.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    if np.isnan(log_p).any():
        raise RetainError("the model gives logits that are not numbers; try f32 cells (--type-k f32 --type-v f32)")
    return log_p


def kl_divergence(log_p: npt.NDArray[np.float64], log_q: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """KL(p || q) of each row in nats, [n], from log probabilities [n, n_vocab]."""
    p = np.exp(log_p)
    with np.errstate(invalid="ignore"):  # 0 · (-inf + inf)
        terms = p * (log_p - log_q)
    terms[p == 0] = 0
    return np.maximum(terms.sum(axis=1), 0)  # rounding leaves -1e-17
