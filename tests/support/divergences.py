"""Divergences from saved logits, computed with SciPy, and made up ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax, rel_entr

from support.llamas import load

N_UBATCH = 32


def saved_logits(path: Path, tokens: list[int], **options: Any) -> np.ndarray:
    """Logits after every token but the last, [n - 1, n_vocab], as `Llama` keeps them with logits_all."""
    llm = load(path, logits_all=True, **options | {"n_ubatch": N_UBATCH, "n_batch": N_UBATCH})
    llm.eval(tokens[:-1])
    logits = np.array(llm.scores[: len(tokens) - 1], np.float64)
    llm.close()
    return logits


def kl_of_logits(full: np.ndarray, other: np.ndarray) -> np.ndarray:
    """KL(full || other) of each row, [n]."""
    return rel_entr(np.exp(log_softmax(full, axis=1)), np.exp(log_softmax(other, axis=1))).sum(axis=1)


def nll_of_logits(logits: np.ndarray, tokens: list[int]) -> np.ndarray:
    """Negative log-likelihood of each token but the first, [n - 1]."""
    return -log_softmax(logits, axis=1)[np.arange(len(tokens) - 1), tokens[1:]]


def made_up(kl: list[float], n_whole: int = 0, disagree: int = 0, nll_more: float = 0.0, cells: int = 64) -> Any:
    """A Divergence with these KLs, whose last `disagree` entries differ and whose nll is that much worse throughout."""
    from retain_local.divergence.divergence import Divergence, Reading

    n = len(kl)
    top = np.zeros(n, np.int32)
    other = top.copy()
    other[n - disagree :] = 1
    nll = np.linspace(0.5, 1.5, n)
    full = Reading(nll, top, n, 1000 * n)
    return Divergence(full, Reading(nll + nll_more, other, cells, 1000 * cells), np.array(kl), n_whole)
