"""What a token takes in the pool of a model, asked of the native library before the model is loaded."""

from __future__ import annotations

import ctypes
import functools
import os

from ..errors import RetainError
from ..kv_types import KVType
from . import llama_cpp, log, retain_h
from .context import aborts_as_errors

_N_CTX = 32  # of the context that is asked; its size decides nothing
_LOAD_NONE, _FLASH_ATTN_ON = 0, 1  # of llama.h's enums: no memory map; a V that is quantised needs flash attention


@functools.lru_cache(maxsize=8)
def pool_bytes_per_token(path: str | os.PathLike[str], type_k: KVType, type_v: KVType) -> int:
    """Bytes that the K and V rows of one token take in the layers whose cells are in the pool.

    Which layers these are, llama.cpp decides by the architecture. Its model and context are made without memory.

    Raises
    ------
    RetainError : the file cannot be loaded, or the model cannot run in a cache of fixed size.
    """
    params = llama_cpp.llama_model_default_params()
    params.no_alloc, params.load_mode, params.n_gpu_layers = True, _LOAD_NONE, 0
    log.forget_errors()
    with aborts_as_errors():
        model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise RetainError(f"{os.fspath(path)}: {log.first_error() or 'llama.cpp cannot load it'}")
    try:
        return _bytes_per_token(model, type_k, type_v)
    finally:
        llama_cpp.llama_model_free(model)


def _bytes_per_token(model: int, type_k: KVType, type_v: KVType) -> int:
    retention = retain_h.default_params()
    retention.budget, retention.buffer, retention.n_sink, retention.policy = _N_CTX, 0, 0, b"window"
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = _N_CTX
    params.type_k, params.type_v = type_k.ggml, type_v.ggml
    params.flash_attn_type = _FLASH_ATTN_ON
    retain_h.clear_error()
    retain_h.check(retain_h.set_params(ctypes.byref(retention)))
    try:
        with aborts_as_errors():
            ctx = retain_h.check(llama_cpp.llama_init_from_model(model, params))
    finally:
        retain_h.set_params(None)
    try:
        stats = retain_h.RetainStats()
        retain_h.check(retain_h.get_stats(ctx, stats))
        return stats.n_cell_lists * stats.bytes_cell
    finally:
        llama_cpp.llama_free(ctx)
