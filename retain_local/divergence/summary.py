"""Divergences of some texts in a few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .divergence import Divergence


@dataclass(frozen=True)
class Summary:
    """Over the tokens of text predicted once evictions had begun; over all of them where nothing was evicted.

    n : tokens.
    kl_mean, kl_95, kl_99, kl_max : of KL(full || cache) in nats: mean, 95th and 99th percentile, maximum.
    agreement : share of the tokens where both hold the same token likeliest, 0 to 1.
    perplexity_full, perplexity : of the same tokens with the full cache and with this one.
    """

    n: int
    kl_mean: float
    kl_95: float
    kl_99: float
    kl_max: float
    agreement: float
    perplexity_full: float
    perplexity: float

    @property
    def perplexity_ratio(self) -> float:
        """Perplexity over that of the full cache."""
        return self.perplexity / self.perplexity_full


def summarize(divergences: Sequence[Divergence]) -> Summary:
    """One summary of the same cache on one or more texts; every token counts alike.

    The tokens before the first eviction are left out: they are predicted from the whole text whatever the budget, so
    they would flatter a large budget, and a short text.
    """
    evicts = any(one.evicts for one in divergences)
    parts = [(one, _counted(one, one.n_whole if evicts else 0)) for one in divergences]
    kl = np.concatenate([one.kl[at] for one, at in parts])
    agrees = np.concatenate([one.agrees[at] for one, at in parts])
    nll_full = np.concatenate([one.full.nll[at] for one, at in parts])
    nll = np.concatenate([one.cache.nll[at] for one, at in parts])
    kl_95, kl_99 = np.quantile(kl, [0.95, 0.99])
    return Summary(
        n=len(kl),
        kl_mean=float(kl.mean()),
        kl_95=float(kl_95),
        kl_99=float(kl_99),
        kl_max=float(kl.max()),
        agreement=float(agrees.mean()),
        perplexity_full=float(np.exp(nll_full.mean())),
        perplexity=float(np.exp(nll.mean())),
    )


def _counted(one: Divergence, first: int) -> npt.NDArray[np.int64]:
    """The entries from `first` on that are about a token of text."""
    entries = np.arange(first, len(one.kl))
    return entries if one.is_text is None else entries[one.is_text[first:]]
