"""A thin session over llama.h through llama-cpp-python's ctypes bindings.

It drives the stock and the patched libraries alike: whichever `LLAMA_CPP_LIB_PATH` named when `llama_cpp` was first
imported.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from support import ggml

CELL_TYPES = {
    "f32": llama_cpp.GGML_TYPE_F32,
    "f16": llama_cpp.GGML_TYPE_F16,
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
    "q4_0": llama_cpp.GGML_TYPE_Q4_0,
    "bf16": 30,  # GGML_TYPE_BF16, which the bindings do not name
}

LOG_LEVEL_ERROR = 4

llama_cpp.llama_backend_init()


@contextmanager
def logged_errors() -> Iterator[list[str]]:
    """Collect the errors that llama.cpp logs meanwhile; whoever had its log has it again afterwards."""
    errors: list[str] = []

    @llama_cpp.llama_log_callback
    def keep(level: int, text: bytes, _: int) -> None:
        if level == LOG_LEVEL_ERROR:
            errors.append(text.decode(errors="replace").strip())

    before, data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(before), ctypes.byref(data))
    llama_cpp.llama_log_set(keep, ctypes.c_void_p())
    try:
        yield errors
    finally:
        llama_cpp.llama_log_set(before, data)


class _BufferTypeOverride(ctypes.Structure):
    """`struct llama_model_tensor_buft_override`: a pattern of names, and where tensors that match it go."""

    _fields_ = [("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p)]


class Model:
    """A loaded model.

    Parameters
    ----------
    path : a GGUF file.
    buffer_type : name of the CPU's buffer type that takes the weights which it can multiply with, the others staying
        plain; `ggml.PLAIN` keeps all weights plain, and None leaves it to llama.cpp.
    """

    def __init__(self, path: Path, buffer_type: str | None = None) -> None:
        params = llama_cpp.llama_model_default_params()
        if buffer_type is not None:
            params.use_extra_bufts = False
            overrides = _overrides(path, buffer_type)
            params.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
        with logged_errors() as errors:
            self.handle = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise RuntimeError(f"cannot load {path}: {errors}")
        self.path = Path(path)
        vocab = llama_cpp.llama_model_get_vocab(self.handle)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(vocab)
        self.n_layer = llama_cpp.llama_model_n_layer(self.handle)
        self.n_head_kv = llama_cpp.llama_model_n_head_kv(self.handle)
        self.n_embd = llama_cpp.llama_model_n_embd(self.handle)

    def tokenize(self, text: str) -> list[int]:
        """The tokens of a text, control tokens among them, behind the one that begins a text where the model has it."""
        raw = text.encode()
        tokens = (llama_cpp.llama_token * (len(raw) + 2))()
        vocab = llama_cpp.llama_model_get_vocab(self.handle)
        return tokens[: llama_cpp.llama_tokenize(vocab, raw, len(raw), tokens, len(tokens), True, True)]

    def close(self) -> None:
        llama_cpp.llama_model_free(self.handle)


def _overrides(path: Path, buffer_type: str) -> ctypes.Array:
    """Overrides, the empty one at the end included, that put the weights of a file into buffers of a type."""
    pointer = ggml.rearranging_buffer_types().get(buffer_type)
    overrides = [(f"^{re.escape(name)}$".encode(), pointer) for name in ggml.weights_of(path, buffer_type)]
    return (_BufferTypeOverride * (len(overrides) + 1))(*overrides)


class Session:
    """A context of a model.

    Parameters
    ----------
    model : the model.
    capture : a `retain_local.bindings.capture.Capture` that sees every tensor computed, or None.
    cell_type : of K and V, a key of `CELL_TYPES`, or of each, as in "q8_0/f16".
    n_ctx, n_batch, n_ubatch, n_seq_max, n_threads, flash_attn : as in llama.h.
    """

    def __init__(
        self,
        model: Model,
        capture: Any = None,
        cell_type: str = "f16",
        n_ctx: int = 1024,
        n_batch: int = 512,
        n_ubatch: int = 512,
        n_seq_max: int = 1,
        n_threads: int = 1,
        flash_attn: bool = True,
    ) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = n_ctx, n_batch, n_ubatch, n_seq_max
        params.n_threads = params.n_threads_batch = n_threads
        type_k, _, type_v = cell_type.partition("/")
        params.type_k, params.type_v = CELL_TYPES[type_k], CELL_TYPES[type_v or type_k]
        params.flash_attn_type = (
            llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash_attn else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        params.kv_unified = True
        params.no_perf = True
        if capture is not None:
            params.cb_eval = capture.callback
        self.model, self.capture, self.n_batch = model, capture, n_batch
        with logged_errors() as errors:
            self.handle = llama_cpp.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise RuntimeError(f"cannot make a context: {errors}")
        self.memory = llama_cpp.llama_get_memory(self.handle)
        self.batch = llama_cpp.llama_batch_init(n_batch, 0, 1)

    def close(self) -> None:
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.handle)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def n_seen(self, seq_id: int = 0) -> int:
        """The position that the next token of a sequence takes."""
        return llama_cpp.llama_memory_seq_pos_max(self.memory, seq_id) + 1

    def decode(self, tokens: Sequence[int], seq_id: int = 0) -> np.ndarray:
        """Append tokens to a sequence, in batches of n_batch. Returns the logits of every token, [n, n_vocab] f32."""
        start = self.n_seen(seq_id)
        rows = [(token, start + i, seq_id) for i, token in enumerate(tokens)]
        parts = [self.decode_rows(rows[i : i + self.n_batch]) for i in range(0, len(rows), self.n_batch)]
        return np.concatenate(parts)

    def decode_rows(self, rows: Sequence[tuple[int, int, int]]) -> np.ndarray:
        """Decode one batch of (token, position, sequence); returns the logits of its rows, [n, n_vocab] f32."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, pos, seq_id) in enumerate(rows):
            batch.token[i], batch.pos[i] = token, pos
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, seq_id
            batch.logits[i] = 1
        with logged_errors() as errors:
            status = llama_cpp.llama_decode(self.handle, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}: {errors}")
        logits = [llama_cpp.llama_get_logits_ith(self.handle, i)[: self.model.n_vocab] for i in range(len(rows))]
        return np.array(logits, np.float32)

    def decode_embeddings(self, embeddings: np.ndarray, positions: np.ndarray, seq_id: int = 0) -> None:
        """Decode one batch of embeddings, [n, n_embd] f32, at positions [sections, n], as of a picture."""
        n = len(embeddings)
        embeddings, positions = embeddings.astype(np.float32), positions.astype(np.int32)
        sequence = (llama_cpp.llama_seq_id * 1)(seq_id)
        pointer = ctypes.POINTER(llama_cpp.llama_seq_id)
        batch = llama_cpp.llama_batch(
            n_tokens=n,
            embd=embeddings.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
            pos=positions.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            n_seq_id=(ctypes.c_int32 * n)(*[1] * n),
            seq_id=(pointer * (n + 1))(*[ctypes.cast(sequence, pointer)] * n),
            logits=(ctypes.c_int8 * n)(),
        )
        with logged_errors() as errors:
            status = llama_cpp.llama_decode(self.handle, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}: {errors}")

    def greedy(self, logits: np.ndarray, n: int, seq_id: int = 0) -> tuple[list[int], np.ndarray]:
        """Choose and decode n tokens, the first from `logits` [n_vocab]; returns them and their logits [n, n_vocab]."""
        tokens, rows = [], []
        for _ in range(n):
            tokens.append(int(np.argmax(logits)))
            logits = self.decode(tokens[-1:], seq_id)[-1]
            rows.append(logits)
        return tokens, np.array(rows)

    def remove(self, p0: int, p1: int, seq_id: int = 0) -> None:
        """Remove positions [p0, p1) of a sequence; a negative end is open."""
        assert self.try_remove(p0, p1, seq_id)

    def try_remove(self, p0: int, p1: int, seq_id: int = 0) -> bool:
        """Remove them where that is allowed; whether it was."""
        return llama_cpp.llama_memory_seq_rm(self.memory, seq_id, p0, p1)

    def copy(self, source: int, target: int) -> None:
        llama_cpp.llama_memory_seq_cp(self.memory, source, target, -1, -1)

    def keep(self, seq_id: int) -> None:
        """Remove all other sequences."""
        llama_cpp.llama_memory_seq_keep(self.memory, seq_id)

    def shift(self, p0: int, p1: int, delta: int, seq_id: int = 0) -> None:
        """Move positions [p0, p1) of a sequence by delta; a negative end is open."""
        llama_cpp.llama_memory_seq_add(self.memory, seq_id, p0, p1, delta)

    def can_shift(self) -> bool:
        return llama_cpp.llama_memory_can_shift(self.memory)

    def state(self, seq_id: int | None = None) -> bytes:
        """The state of a sequence, or of everything."""
        if seq_id is None:
            size = llama_cpp.llama_state_get_size(self.handle)
            buffer = (ctypes.c_uint8 * size)()
            n = llama_cpp.llama_state_get_data(self.handle, buffer, size)
        else:
            size = llama_cpp.llama_state_seq_get_size(self.handle, seq_id)
            buffer = (ctypes.c_uint8 * size)()
            n = llama_cpp.llama_state_seq_get_data(self.handle, buffer, size, seq_id)
        return bytes(buffer[:n])

    def restore(self, state: bytes, seq_id: int | None = None) -> bool:
        """Set the state of a sequence, or of everything; whether the library took it."""
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        if seq_id is None:
            return llama_cpp.llama_state_set_data(self.handle, buffer, len(state)) != 0
        return llama_cpp.llama_state_seq_set_data(self.handle, buffer, len(state), seq_id) != 0
