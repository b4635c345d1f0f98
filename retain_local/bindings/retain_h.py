"""ctypes declarations of `retain.h`."""

from __future__ import annotations

import functools
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_bool,
    c_char_p,
    c_double,
    c_float,
    c_int32,
    c_int64,
    c_uint32,
    c_void_p,
)
from typing import Any

from ..errors import RetainError
from .library import load

PREFILL_BOUNDED, PREFILL_FULL = 0, 1
SCOPE_GLOBAL, SCOPE_LAYER, SCOPE_HEAD = 0, 1, 2


class RetainParams(Structure):
    """`struct retain_params`."""

    _fields_ = [
        ("budget", c_int32),
        ("buffer", c_int32),
        ("lookahead", c_int32),
        ("n_sink", c_int32),
        ("n_recent", c_int32),
        ("min_per_head", c_int32),
        ("page_size", c_int32),
        ("prefill", c_int32),
        ("scope", c_int32),
        ("seed", c_uint32),
        ("policy", c_char_p),
        ("gates", c_char_p),
        ("recall", c_float),
        ("archive_type", c_int32),
        ("archive_bytes", c_int64),
        ("archive_file", c_char_p),
    ]


class RetainStats(Structure):
    """`struct retain_stats`."""

    _fields_ = [
        ("n_seen", c_int64),
        ("n_cells", c_int64),
        ("n_cells_peak", c_int64),
        ("n_cells_max", c_int64),
        ("n_evicted", c_int64),
        ("n_evictions", c_int64),
        ("n_moved", c_int64),
        ("n_cell_lists", c_int64),
        ("budget", c_int32),
        ("page_size", c_int32),
        ("n_pages", c_int64),
        ("n_pages_used", c_int64),
        ("bytes_pool", c_int64),
        ("bytes_cell", c_int64),
        ("bytes_used", c_int64),
        ("bytes_full", c_int64),
        ("bytes_fixed", c_int64),
        ("t_select_s", c_double),
        ("t_move_s", c_double),
        ("t_input_s", c_double),
        ("n_archived", c_int64),
        ("n_archived_max", c_int64),
        ("n_dropped", c_int64),
        ("bytes_archive", c_int64),
        ("bytes_archived", c_int64),
        ("recall", c_int32),
        ("residents", c_int32),
        ("t_archive_s", c_double),
    ]


_i32s, _f32s, _u32s = POINTER(c_int32), POINTER(c_float), POINTER(c_uint32)

# user_data, seq_id, n_seen, n_cells, layer, head, pos, log_beta, age, scores
ScoreCallback = CFUNCTYPE(c_bool, c_void_p, c_int32, c_int64, c_int64, _i32s, _i32s, _i32s, _f32s, _i32s, _f32s)

# name without `retain_`: result, arguments
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "last_error": (c_char_p,),
    "clear_error": (None,),
    "default_params": (RetainParams,),
    "set_params": (c_bool, POINTER(RetainParams)),
    "guard_aborts": (None, c_bool),
    "gates_check": (c_bool, c_void_p, c_char_p),
    "is_enabled": (c_bool, c_void_p),
    "has_gates": (c_bool, c_void_p),
    "has_static_gates": (c_bool, c_void_p),
    "cells_device": (c_char_p, c_void_p),
    "get_stats": (c_bool, c_void_p, POINTER(RetainStats)),
    "layers": (c_int32, c_void_p, _i32s, c_int32),
    "n_head_kv": (c_int32, c_void_p, c_int32),
    "get_cells": (c_int64, c_void_p, c_int32, c_int32, c_int32, _i32s, _i32s, _f32s, c_int64),
    "get_archived": (c_int64, c_void_p, c_int32, c_int32, c_int32, _i32s, _i32s, _f32s, _u32s, c_int64),
    "n_cells": (c_int64, c_void_p, c_int32),
    "pin": (c_bool, c_void_p, c_int32, c_int32, c_int32),
    "unpin": (c_bool, c_void_p, c_int32, c_int32, c_int32),
    "set_budget": (c_bool, c_void_p, c_int32, c_int32),
    "get_budget": (c_int32, c_void_p, c_int32),
    "hold": (c_bool, c_void_p, c_int32, c_bool),
    "rollback_limit": (c_int32, c_void_p, c_int32),
    "draft_limit": (c_int64, c_void_p, c_int32),
    "policy_name": (c_char_p, c_int32),
    "policy_description": (c_char_p, c_int32),
    "set_policy": (c_bool, c_void_p, c_char_p),
    "get_policy": (c_char_p, c_void_p),
    "set_callback": (c_bool, c_void_p, ScoreCallback, c_void_p),
}


@functools.cache
def _function(name: str) -> Any:
    function = getattr(load(), f"retain_{name}")
    function.restype, *function.argtypes = _FUNCTIONS[name]
    return function


def __getattr__(name: str) -> Any:
    """A function of `retain.h` by its name without `retain_`; the libraries are loaded when the first is asked for."""
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _function(name)


def error_text() -> str:
    """Why the last call in this thread failed; "" when none did."""
    return _function("last_error")().decode("utf-8", errors="replace")


def check(result: Any) -> Any:
    """Return what a native call returned, or raise RetainError when it is false, negative or None."""
    if result is None or result is False or (not isinstance(result, bool) and result < 0):
        raise RetainError(error_text() or "the native library failed and gave no reason")
    return result


def policies() -> dict[str, str]:
    """Every policy and what it does, in the library's order."""
    found: dict[str, str] = {}
    while name := _function("policy_name")(len(found)):
        found[name.decode()] = _function("policy_description")(len(found)).decode()
    return found
