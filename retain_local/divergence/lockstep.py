"""Reading a text with a full cache and with others at once, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..options.retention_options import RetentionOptions
from ..vision.layout import Layout
from .distributions import kl_divergence, log_softmax, row_blocks
from .divergence import Divergence, Reading
from .text_cache import TextCache, chunks

if TYPE_CHECKING:
    from ..llama import Llama


def diverge(
    llm: Llama,
    tokens: Sequence[int],
    options: Sequence[RetentionOptions],
    on_progress: Callable[[int, int], None] | None = None,
    first: int = 0,
) -> list[Divergence]:
    """Compare caches with the full one on a text.

    All caches read the same chunk, one after the other, before the next chunk comes: the full cache reads the text
    once, whatever the number of others, and no more logits are held than those of one chunk in each cache.

    Parameters
    ----------
    llm : the model, which gives the weights, the context and the chunk: its `n_ubatch`. Its own cache is not used.
    tokens : the text, two tokens at least. Its pictures, which somebody must hold, are read in chunks of their own.
    options : of each cache, as resolved; `prefill` must be "bounded", as a text that is read whole first shows nothing.
    on_progress : called with (tokens read, tokens to read), added up over all caches.
    first : entries before this one are read but not compared: there nll and kl are nan, and top is -1.

    Returns
    -------
    list : a Divergence for each of the options; they share one `full`.

    Raises
    ------
    UsageError : the text is too short, or the options hold evictions back.
    RetainError : the text does not fit the context, a cache cannot be made, the logits are not numbers, or a picture is
        larger than the chunk that it must fit.
    """
    if len(tokens) < 2:
        raise UsageError("a text needs two tokens at least: the second is the first that is predicted")
    if any(option.prefill == "full" for option in options):
        raise UsageError("with prefill 'full' nothing is evicted while a text is read; use 'bounded'")
    read, came = list(tokens[:-1]), np.asarray(tokens[1:], np.intp)
    full = RetentionOptions(len(read), buffer=0, gates=None, policy="none", sinks=0)
    layout = Layout.of(tokens, llm.pictures).cut(len(read))
    llm.check_pictures(layout)
    with ExitStack() as stack:
        caches = [stack.enter_context(TextCache(llm, option, layout)) for option in (full, *options)]
        sheets = [_Sheet(len(read)) for _ in caches]
        for start, stop in chunks(len(read), caches[0].n_chunk, layout):
            chunk = read[start:stop]
            logits = []
            for i, cache in enumerate(caches):
                if on_progress is not None:
                    on_progress(start * len(caches) + i * len(chunk), len(read) * len(caches))
                logits.append(cache.read(chunk, with_logits=stop > first))
            if stop > first:
                skipped = max(0, first - start)
                _compare(sheets, [own[skipped:] for own in logits], came, start + skipped)
        if on_progress is not None:
            on_progress(len(read) * len(caches), len(read) * len(caches))
        base, *readings = [sheet.reading(cache) for sheet, cache in zip(sheets, caches)]
        is_text = None if came.min() >= 0 else came >= 0
        return [
            Divergence(base, reading, sheet.kl, cache.n_whole, is_text, cache.cells_of_pictures())
            for reading, sheet, cache in zip(readings, sheets[1:], caches[1:])
        ]


class _Sheet:
    """What is noted of one cache while the text is read; see `Reading` and `Divergence`."""

    def __init__(self, n: int) -> None:
        self.nll = np.full(n, np.nan)
        self.top = np.full(n, -1, np.int32)
        self.kl = np.full(n, np.nan)

    def note(self, at: slice, log_q: npt.NDArray[np.float64], came: npt.NDArray[np.intp]) -> None:
        """Take in the log probabilities [n, n_vocab] of some entries, and the tokens that came."""
        is_text = came >= 0
        self.nll[at] = np.where(is_text, -np.take_along_axis(log_q, came[:, None].clip(0), axis=1)[:, 0], 0)
        self.top[at] = np.where(is_text, log_q.argmax(axis=1), -1)

    def reading(self, cache: TextCache) -> Reading:
        stats = cache.retention.stats()
        return Reading(
            self.nll,
            self.top,
            stats.budget,
            stats.cells_peak * stats.bytes_cell,
            stats.bytes_pool,
            stats.cells_kept,
            cache.seconds,
            stats.bytes_archived,
        )


def _compare(
    sheets: list[_Sheet], logits: list[npt.NDArray[np.float32]], came: npt.NDArray[np.intp], start: int
) -> None:
    """Note one chunk: `logits` [n, n_vocab] of each cache, the full one's first; its first entry is `start`."""
    for rows in row_blocks(*logits[0].shape):
        at = slice(start + rows.start, start + rows.stop)
        log_p = log_softmax(logits[0][rows])
        sheets[0].note(at, log_p, came[at])
        for sheet, own in zip(sheets[1:], logits[1:]):
            log_q = log_softmax(own[rows])
            sheet.note(at, log_q, came[at])
            sheet.kl[at] = np.where(came[at] >= 0, kl_divergence(log_p, log_q), 0)
