"""A context over llama.h that reads and writes random tokens: on whichever libraries the process has loaded."""

from __future__ import annotations

import ctypes
import os
import time

import llama_cpp
import numpy as np

from ..errors import RetainError
from .stock_fill import filled_state

_SEQUENCE = 0
_SAMPLE = 256  # tokens whose state a synthetic one is made of


class BenchSession:
    """One model and one sequence of it.

    Parameters
    ----------
    model : path of a GGUF file.
    n_ctx, n_ubatch, n_threads : as in llama.h.
    type_k, type_v : ggml numbers of the types of K and V.
    seed : of the tokens, the same for the same seed whatever is asked of the session.
    """

    def __init__(
        self,
        model: str,
        n_ctx: int,
        n_ubatch: int,
        n_threads: int,
        type_k: int,
        type_v: int,
        n_gpu_layers: int,
        seed: int,
    ) -> None:
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p())
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = n_gpu_layers
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(model), model_params)
        if not self._model:
            raise RetainError(f"{model} cannot be loaded")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, n_ubatch, n_ubatch
        params.n_threads = params.n_threads_batch = n_threads
        params.type_k, params.type_v = type_k, type_v
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.offload_kqv = n_gpu_layers != 0
        params.swa_full = False  # as llama.cpp's own programs have it
        self.context = llama_cpp.llama_init_from_model(self._model, params)
        if not self.context:
            raise RetainError(f"no context of {n_ctx:,} tokens could be made for {model}")
        self._memory = llama_cpp.llama_get_memory(self.context)
        self._n_ubatch = n_ubatch
        n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._tokens = np.random.default_rng(seed).integers(0, n_vocab, n_ctx, dtype=np.int32)
        self.depth = 0

    def read(self, n: int) -> list[float]:
        """Read n tokens as a prompt; seconds of each ubatch."""
        seconds = []
        while n:
            size = min(n, self._n_ubatch)
            seconds.append(self._decode(size))
            n -= size
        return seconds

    def write(self, n: int) -> float:
        """Decode n tokens one after the other, as generation does without the sampling; seconds in all."""
        return sum(self._decode(1) for _ in range(n))

    def cut(self, depth: int) -> bool:
        """Take back the tokens from a position on; False where the model cannot, as with recurrent layers."""
        if not llama_cpp.llama_memory_seq_rm(self._memory, _SEQUENCE, depth, -1):
            return False
        self.depth = depth
        return True

    def can_fill(self) -> bool:
        """Whether `fill` works: all layers attend to everything, so that a state is K and V alone."""
        window, mixes = llama_cpp.llama_model_n_swa(self._model), llama_cpp.llama_model_is_hybrid(self._model)
        return not window and not mixes

    def fill(self, depth: int) -> None:
        """Make the cache hold so many tokens without computing them: K and V of the first ones, again and again.

        What attention costs does not depend on the values. Stock contexts only.
        """
        if self.depth < _SAMPLE:
            self.read(_SAMPLE - self.depth)
        self.cut(_SAMPLE)
        size = llama_cpp.llama_state_seq_get_size(self.context, _SEQUENCE)
        sample = np.empty(size, np.uint8)
        pointer = ctypes.POINTER(ctypes.c_uint8)
        n = llama_cpp.llama_state_seq_get_data(self.context, sample.ctypes.data_as(pointer), size, _SEQUENCE)
        state = filled_state(sample[:n], depth)
        if not llama_cpp.llama_state_seq_set_data(self.context, state.ctypes.data_as(pointer), state.size, _SEQUENCE):
            raise RetainError(f"stock llama.cpp does not take a state of {depth:,} tokens")
        self.depth = depth

    def _decode(self, n: int) -> float:
        tokens = self._tokens[self.depth : self.depth + n]
        batch = llama_cpp.llama_batch_get_one(tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)), n)
        start = time.perf_counter()
        result = llama_cpp.llama_decode(self.context, batch)
        llama_cpp.llama_synchronize(self.context)
        seconds = time.perf_counter() - start
        if result:
            raise RetainError(f"llama_decode failed ({result}) after {self.depth:,} tokens")
        self.depth += n
        return seconds

    def state_bytes(self) -> int:
        """Bytes of the sequence's state: of a stock context, its K and V in use and a little beside them."""
        return llama_cpp.llama_state_seq_get_size(self.context, _SEQUENCE)
