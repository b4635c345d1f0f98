"""Parts of ggml's C interface that the bindings leave out: tensors, and the buffer types that the CPU has for weights."""

from __future__ import annotations

import ctypes
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

# also finds the symbols of the ggml libraries it is linked with; a handle of its own, whose signatures are its own too
_lib = ctypes.CDLL(llama_cpp.llama_cpp._lib._name)

PLAIN = "CPU"  # the buffer type that keeps weights as the file has them
_CPU_DEVICE = 0  # GGML_BACKEND_DEVICE_TYPE_CPU


class Tensor(ctypes.Structure):
    """`struct ggml_tensor` of the pinned release."""


Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(Tensor) * 10),
    ("view_src", ctypes.POINTER(Tensor)),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
]


class _InitParams(ctypes.Structure):
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


_pointer, _tensor, _int64 = ctypes.c_void_p, ctypes.POINTER(Tensor), ctypes.c_int64
for _name, _result, *_arguments in (
    ("ggml_init", _pointer, _InitParams),
    ("ggml_free", None, _pointer),
    ("ggml_new_tensor_3d", _tensor, _pointer, ctypes.c_int, _int64, _int64, _int64),
    ("ggml_mul_mat", _tensor, _pointer, _tensor, _tensor),
    ("ggml_mul_mat_id", _tensor, _pointer, _tensor, _tensor, _tensor),
    ("ggml_nbytes", ctypes.c_size_t, _tensor),
    ("ggml_op_name", ctypes.c_char_p, ctypes.c_int),
    ("ggml_backend_tensor_get", None, _tensor, _pointer, ctypes.c_size_t, ctypes.c_size_t),
    ("ggml_backend_buffer_name", ctypes.c_char_p, _pointer),
    ("ggml_backend_buffer_free", None, _pointer),
    ("ggml_backend_buft_name", ctypes.c_char_p, _pointer),
    ("ggml_backend_buft_alloc_buffer", _pointer, _pointer, ctypes.c_size_t),
    ("ggml_backend_dev_by_type", _pointer, ctypes.c_int),
    ("ggml_backend_dev_backend_reg", _pointer, _pointer),
    ("ggml_backend_dev_supports_op", ctypes.c_bool, _pointer, _tensor),
    ("ggml_backend_reg_get_proc_address", _pointer, _pointer, ctypes.c_char_p),
):
    getattr(_lib, _name).restype, getattr(_lib, _name).argtypes = _result, _arguments


def op_name(tensor: Tensor) -> str:
    return _lib.ggml_op_name(tensor.op).decode()


def buffer_name(tensor: Tensor) -> str:
    """Name of the buffer that holds a tensor: that of its type, with `_Mapped` behind it for a mapped file."""
    return _lib.ggml_backend_buffer_name(tensor.buffer).decode()


def read(tensor: Tensor, dtype: type[np.generic]) -> np.ndarray:
    """The elements of a tensor whose type is `dtype`, in NumPy's order of axes: [ne3, ne2, ne1, ne0]."""
    data = np.empty(_lib.ggml_nbytes(tensor), np.uint8)
    _lib.ggml_backend_tensor_get(tensor, data.ctypes.data, 0, data.nbytes)
    shape, strides = tuple(reversed(tensor.ne)), tuple(reversed(tensor.nb))
    return np.lib.stride_tricks.as_strided(data.view(dtype), shape, strides).copy()


def rearranging_buffer_types() -> dict[str, int]:
    """Buffer types of the CPU that rearrange weights, by name: repack, AMX and such, as far as this machine has them."""
    registry = _lib.ggml_backend_dev_backend_reg(_lib.ggml_backend_dev_by_type(_CPU_DEVICE))
    address = _lib.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
    function = ctypes.CFUNCTYPE(ctypes.POINTER(_pointer), _pointer)(address)
    types, found = function(_lib.ggml_backend_dev_by_type(_CPU_DEVICE)), {}
    while types and (pointer := types[len(found)]):
        found[_lib.ggml_backend_buft_name(pointer).decode()] = pointer
    return found


def weights_of(path: Path, buffer_type: str) -> list[str]:
    """Names of the weights of a file that a rearranging buffer type takes: those that the CPU multiplies with there."""
    pointer = rearranging_buffer_types().get(buffer_type)
    # rows of the embedding are looked up, which needs them in order
    weights = [t for t in gguf.GGUFReader(path).tensors if len(t.shape) > 1 and t.name != "token_embd.weight"]
    return [t.name for t in weights if pointer and _multiplies(pointer, t.tensor_type, *map(int, t.shape))]


def buffer_types(weight_type: int) -> list[str]:
    """Names of the CPU's buffer types that weights of a type may lie in, the plain one first."""
    types = rearranging_buffer_types().items()
    return [PLAIN, *(name for name, pointer in types if _multiplies(pointer, weight_type, 256, 256))]


def _multiplies(buffer_type: int, weight_type: int, n_in: int, n_out: int, n_expert: int = 1) -> bool:
    context = _lib.ggml_init(_InitParams(2**16, None, True))
    weights = _lib.ggml_new_tensor_3d(context, weight_type, n_in, n_out, n_expert)
    rows = _lib.ggml_new_tensor_3d(context, llama_cpp.GGML_TYPE_F32, n_in, 1, 1)
    if n_expert == 1:
        product = _lib.ggml_mul_mat(context, weights, rows)
    else:
        experts = _lib.ggml_new_tensor_3d(context, llama_cpp.GGML_TYPE_I32, 1, 1, 1)
        product = _lib.ggml_mul_mat_id(context, weights, rows, experts)
    buffer = _lib.ggml_backend_buft_alloc_buffer(buffer_type, 0)
    weights.contents.buffer = buffer
    supported = _lib.ggml_backend_dev_supports_op(_lib.ggml_backend_dev_by_type(_CPU_DEVICE), product)
    _lib.ggml_backend_buffer_free(buffer)
    _lib.ggml_free(context)
    return supported
