"""What ggml itself makes of a GGUF file."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from retain_local.bindings import library


class _Params(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]


@cache
def ggml() -> ctypes.CDLL:
    """The library that reads GGUF files, its functions declared."""
    library.load()
    lib = ctypes.CDLL(str(library.directory() / library.file_name("ggml-base")))
    context, index = ctypes.c_void_p, ctypes.c_int64
    declared = {
        "ggml_blck_size": (ctypes.c_int64, ctypes.c_int),
        "ggml_type_size": (ctypes.c_size_t, ctypes.c_int),
        "gguf_init_from_file": (context, ctypes.c_char_p, _Params),
        "gguf_free": (None, context),
        "gguf_get_data_offset": (ctypes.c_size_t, context),
        "gguf_get_n_tensors": (ctypes.c_int64, context),
        "gguf_get_tensor_name": (ctypes.c_char_p, context, index),
        "gguf_get_tensor_offset": (ctypes.c_size_t, context, index),
        "gguf_get_tensor_size": (ctypes.c_size_t, context, index),
    }
    for name, (result, *arguments) in declared.items():
        getattr(lib, name).restype, getattr(lib, name).argtypes = result, arguments
    return lib


def ggml_reads(path: Path) -> bool:
    """Whether ggml reads the header, all tensors lie within the file, and no two have one name."""
    lib, size = ggml(), path.stat().st_size
    found = lib.gguf_init_from_file(bytes(path), _Params(True, None))
    if not found:
        return False
    indices = range(lib.gguf_get_n_tensors(found))
    start = lib.gguf_get_data_offset(found)
    ends = [start + lib.gguf_get_tensor_offset(found, i) + lib.gguf_get_tensor_size(found, i) for i in indices]
    names = {lib.gguf_get_tensor_name(found, i) for i in indices}
    lib.gguf_free(found)
    return all(end <= size for end in ends) and len(names) == len(ends)
