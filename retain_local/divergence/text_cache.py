"""A further cache for a model that is loaded, which reads one text and gives the logits of every token."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..bindings import llama_cpp, log, retain_h
from ..bindings.context import armed
from ..bindings.interrupt import stoppable
from ..decoding.picture_batch import PictureBatch
from ..errors import RetainError
from ..options.retention_options import RetentionOptions
from ..retention.retention import Retention
from ..vision.layout import Layout

if TYPE_CHECKING:
    from ..llama import Llama


class TextCache:
    """A context of its own beside the model's: weights are shared, cells are not. A context manager.

    Parameters
    ----------
    llm : the model; it must stay open. Context, types, threads and RoPE settings are those that it was loaded with.
    options : as resolved.
    layout : the pictures of the text; its chunks must be cut as `chunks` does.

    Attributes
    ----------
    retention : Retention
    n_whole : int
        Tokens read while no cell had been evicted.
    seconds : float
        That reading took.

    Raises
    ------
    RetainError : the context cannot be made.
    """

    def __init__(self, llm: Llama, options: RetentionOptions, layout: Layout | None = None) -> None:
        self._layout = layout or Layout()
        self.n_chunk = llm.context_params.n_ubatch
        self.n_whole = 0
        self.seconds = 0.0
        self._n_read = 0
        self._n_vocab = llm.n_vocab()
        log.forget_errors()
        with armed(options):
            self._ctx = llama_cpp.llama_init_from_model(llm.model, llm.context_params)
        if not self._ctx:
            reason = retain_h.error_text() or log.first_error() or "llama.cpp gave no reason"
            raise RetainError(f"no cache can be made for a budget of {options.budget} cells: {reason}")
        self.retention = Retention(self._ctx)
        self._batch = llama_cpp.llama_batch_init(self.n_chunk, 0, 1)
        for i in range(self.n_chunk):
            self._batch.n_seq_id[i], self._batch.seq_id[i][0] = 1, 0

    def __enter__(self) -> TextCache:
        return self

    def __exit__(self, *_: object) -> None:
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._ctx)

    def read(self, tokens: Sequence[int], with_logits: bool = True) -> npt.NDArray[np.float32]:
        """Read the next tokens, at most `n_chunk`; returns the logits after each.

        Parameters
        ----------
        with_logits : False: none are computed for a text, which takes less time.

        Returns
        -------
        float32 [n_tokens, n_vocab] : llama.cpp's own memory, good until the next call; [0, n_vocab] without logits.

        Raises
        ------
        RetainError : they cannot be evaluated.
        KeyboardInterrupt : Ctrl-C was pressed.
        """
        n = len(tokens)
        placed = self._layout.at(self._n_read)
        with ExitStack() as stack:
            if placed is not None:
                first = self._n_read - placed.start
                picture = PictureBatch(placed, slice(first, first + n), logits_all=True)
                stack.enter_context(picture.attention(self._ctx))
                batch = picture.batch
            else:
                batch, position = self._batch, self._layout.position(self._n_read)
                batch.n_tokens = n
                np.ctypeslib.as_array(batch.token, (n,))[:] = tokens
                np.ctypeslib.as_array(batch.pos, (n,))[:] = np.arange(position, position + n)
                np.ctypeslib.as_array(batch.logits, (n,))[:] = with_logits
            retain_h.clear_error()
            start = time.perf_counter()
            with stoppable(self._ctx):
                if status := llama_cpp.llama_decode(self._ctx, batch):
                    raise RetainError(retain_h.error_text() or f"llama_decode returned {status}")
        self.seconds += time.perf_counter() - start
        self._n_read += n
        if self.retention.stats().evictions == 0:  # they run before a chunk is computed, not after
            self.n_whole = self._n_read
        if not with_logits:
            return np.empty((0, self._n_vocab), np.float32)
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits(self._ctx), (n, self._n_vocab))

    def cells_of_pictures(self) -> tuple[int, int]:
        """The cells of pictures that are held now, and those that came."""
        spans = [(one.start, one.stop) for one in self._layout.placed]
        retention = self.retention
        cell_lists = [(layer, head) for layer in retention.layers for head in range(retention.heads(layer))]
        held = sum(retention.count(layer, head, spans) for layer, head in cell_lists) if spans else 0
        return held, len(cell_lists) * sum(stop - start for start, stop in spans)


def chunks(n_tokens: int, n_chunk: int, layout: Layout) -> Iterator[tuple[int, int]]:
    """Where the chunks of a text begin and end: at most n_chunk tokens each, of text or of one picture."""
    start = 0
    while start < n_tokens:
        stop = layout.next_edge(start, min(start + n_chunk, n_tokens))
        yield start, stop
        start = stop
