"""Embeddings of a picture as a batch of llama.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ..bindings import llama_cpp
from ..retention.retention import SEQUENCE
from ..vision.layout import Placed


class PictureBatch:
    """Some tokens of a picture, to be computed in one ubatch; used like the bindings' `LlamaBatch`.

    Parameters
    ----------
    placed : the picture and its place.
    rows : which of its tokens.
    logits_all : keep the logits of all of them and not of the last one alone.

    Raises
    ------
    RetainError : the projector cannot read the picture.
    """

    def __init__(self, placed: Placed, rows: slice, logits_all: bool) -> None:
        self._is_causal = placed.picture.is_causal
        # contiguous, and held while llama.cpp reads them
        self._embeddings = np.ascontiguousarray(placed.picture.embeddings[rows])
        self._positions = np.ascontiguousarray(placed.picture.positions(placed.position)[:, rows])
        n = len(self._embeddings)
        self._n_seq_id = np.ones(n, np.int32)
        self._outputs = np.full(n, logits_all, np.int8)
        self._outputs[-1] = True
        self._sequence = llama_cpp.llama_seq_id(SEQUENCE)
        self._seq_id = (ctypes.POINTER(llama_cpp.llama_seq_id) * n)(*[ctypes.pointer(self._sequence)] * n)
        self.batch = llama_cpp.llama_batch(
            n_tokens=n,
            embd=self._embeddings.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
            pos=self._positions.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_pos)),
            n_seq_id=self._n_seq_id.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=self._seq_id,
            logits=self._outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    @contextmanager
    def attention(self, ctx: int) -> Iterator[None]:
        """Let the tokens of a picture that is not causal see each other in the block."""
        if self._is_causal:
            yield
            return
        llama_cpp.llama_set_causal_attn(ctx, False)
        try:
            yield
        finally:
            llama_cpp.llama_set_causal_attn(ctx, True)
