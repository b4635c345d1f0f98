"""Nodes of the compute graph as llama.cpp's evaluation callback sees them: which op they are, and their numbers."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from . import llama_cpp

lib = llama_cpp.llama_cpp._lib  # also finds the symbols of the ggml libraries it is linked with
lib.ggml_nbytes.restype = ctypes.c_size_t
lib.ggml_nbytes.argtypes = [ctypes.c_void_p]
lib.ggml_op_name.restype = ctypes.c_char_p
lib.ggml_op_name.argtypes = [ctypes.c_int]
lib.ggml_backend_tensor_get.restype = None
lib.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]

_F32 = 0


class Node(ctypes.Structure):
    """`struct ggml_tensor` of the release that the libraries were built from."""

    src: ctypes.Array[ctypes._Pointer[Node]]
    ne: ctypes.Array[ctypes.c_int64]
    nb: ctypes.Array[ctypes.c_size_t]
    op_params: ctypes.Array[ctypes.c_int32]

    @property
    def op_name(self) -> str:
        """Name of the op that computes it, as `MUL_MAT`."""
        return lib.ggml_op_name(self.op).decode()

    def source(self, i: int) -> Node | None:
        """Its i-th operand; None where it has none."""
        return self.src[i].contents if self.src[i] else None

    def floats(self) -> npt.NDArray[np.float32]:
        """Its numbers, float32, the slowest dimension first: [ne3, ne2, ne1, ne0]. A copy.

        Raises
        ------
        TypeError : they are of another type.
        """
        if self.type != _F32:
            raise TypeError(f"{self.name.decode()} is not of float32")
        n_bytes = lib.ggml_nbytes(ctypes.byref(self))
        values = np.empty(n_bytes // 4, np.float32)
        lib.ggml_backend_tensor_get(ctypes.byref(self), values.ctypes.data, 0, n_bytes)
        return np.lib.stride_tricks.as_strided(values, self.ne[::-1], self.nb[::-1])


Node._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(Node) * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
]


def node_at(address: int) -> Node:
    """The node that a callback was given the address of."""
    return Node.from_address(address)
