"""What was found on one text: predictions of a full cache, of one that evicts, and their distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Reading:
    """Predictions of one cache over a text of n tokens. Entry i is about token i + 1, predicted from all before it.

    Where that token is of a picture nothing is predicted: nll is 0 and top -1.

    nll : negative log-likelihood of the token that came, in nats, float64 [n - 1].
    top : the token held likeliest, int32 [n - 1].
    budget : cells per (layer, KV head) on average that the cache was made for.
    bytes_peak : bytes of the most cells held at once; bytes_pool : bytes allocated.
    n_cells : cells held at the end.
    seconds : that reading took.
    bytes_archived : of the archive at the end.
    """

    nll: npt.NDArray[np.float64]
    top: npt.NDArray[np.int32]
    budget: int
    bytes_peak: int
    bytes_pool: int = 0
    n_cells: int = 0
    seconds: float = 0.0
    bytes_archived: int = 0


@dataclass(frozen=True)
class Divergence:
    """A cache against the full one on the same text in the same chunks.

    full, cache : the two readings.
    kl : KL(full || cache) of the two next-token distributions in nats, float64 [n - 1].
    n_whole : the first entries, which were predicted while no cell had been evicted; n - 1 when none ever was.
    is_text : the entries that are about a token of text, bool [n - 1]; None: all of them.
    n_of_pictures : cells of pictures that this cache holds at the end, and those that came.
    """

    full: Reading
    cache: Reading
    kl: npt.NDArray[np.float64]
    n_whole: int
    is_text: npt.NDArray[np.bool_] | None = None
    n_of_pictures: tuple[int, int] = (0, 0)

    @property
    def evicts(self) -> bool:
        """Whether anything was predicted from less than the whole text."""
        return self.n_whole < len(self.kl)

    @property
    def agrees(self) -> npt.NDArray[np.bool_]:
        """Where both hold the same token likeliest, [n - 1]."""
        return self.full.top == self.cache.top
