"""Scores of the policies that look at keys and queries, in plain NumPy: each cell's score and a bound of its error.

They take one stream, keys and queries in float64, and compute in it. The library sums norms and cosines in float64 and
products of queries and keys in float32, and rounds every score to float32; the bounds follow from that.
"""

from __future__ import annotations

import numpy as np

EPSILON = 2.0**-24  # of rounding to float32, relative

N_POOL = 5
IN_WINDOW = 2.0  # more than any probability

Scores = tuple[np.ndarray, np.ndarray]


def knorm_scores(keys: np.ndarray) -> Scores:
    """-||k|| of keys [n, d] (arXiv 2406.11430)."""
    norm = np.linalg.norm(keys, axis=-1)
    return -norm, 2 * EPSILON * norm


def keydiff_scores(keys: np.ndarray) -> Scores:
    """-cos(k, mean of k / ||k||) of keys [n, d] (arXiv 2504.15364)."""
    unit = keys / np.linalg.norm(keys, axis=-1, keepdims=True)
    anchor = unit.mean(axis=0)
    cosine = unit @ (anchor / np.linalg.norm(anchor))
    return -cosine, 2 * EPSILON * np.abs(cosine) + 1e-12


def snapkv_scores(ordinal: np.ndarray, keys: np.ndarray, query_ordinal: np.ndarray, queries: np.ndarray) -> Scores:
    """Attention of the last queries, averaged and pooled over 5 neighbours (arXiv 2404.14469).

    Parameters
    ----------
    ordinal : of the cells, [n], ascending.
    keys : [n, d].
    query_ordinal : [w].
    queries : of the query heads that share the KV head, times the scale of attention, [w, g, d].
    """
    n_dim = keys.shape[1]
    attention, error = np.zeros(len(ordinal)), np.zeros(len(ordinal))
    for last, heads in zip(query_ordinal, queries):
        seen = ordinal <= last
        for q in heads if seen.any() else []:
            logits = keys[seen] @ q
            below = logits - logits.max()
            weights = np.exp(below) / np.exp(below).sum()
            attention[seen] += weights
            # the probability of a cell is off by its own logit's error and by that of the logits it is divided by
            rounding = EPSILON * ((n_dim + 4) * (np.abs(keys[seen]) @ np.abs(q)) + np.abs(below))
            error[seen] += weights * (rounding + rounding.max() + 8 * EPSILON)
    n_mean = max(1, queries.shape[0] * queries.shape[1])

    in_window = np.isin(ordinal, query_ordinal)
    scores = np.where(in_window, IN_WINDOW, 0.0)
    scores[~in_window] = _pool(attention[~in_window] / n_mean)
    bound = np.zeros(len(ordinal))
    bound[~in_window] = 2 * _pool(error[~in_window] / n_mean) + 2 * EPSILON * scores[~in_window]
    return scores, bound


def _pool(values: np.ndarray) -> np.ndarray:
    """Average over each value and two neighbours on either side, zeros beyond the ends."""
    padded = np.pad(values, N_POOL // 2)
    return np.lib.stride_tricks.sliding_window_view(padded, N_POOL).mean(axis=-1) if len(values) else values
