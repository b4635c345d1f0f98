"""Queries and keys as attention gets them, taken from the compute graph."""

from __future__ import annotations

import ctypes

import numpy as np

from retain_local.bindings.capture import Capture
from retain_local.bindings.graph import lib, node_at
from support.tiny_models import TinyModel

lib.ggml_is_contiguous.restype = ctypes.c_bool
lib.ggml_is_contiguous.argtypes = [ctypes.c_void_p]


class AttentionCapture(Capture):
    """Keeps the last values that Q and K had before each layer's attention, beside log betas.

    A model gives several tensors of a layer one of these names, before and after norms, RoPE and scaling; the last one
    goes into attention.

    Attributes
    ----------
    queries, keys : per layer the values of each ubatch, [n_tokens, n_head, head_size] and [n_tokens, n_head_kv, ...].
    """

    def __init__(self, shape: TinyModel) -> None:
        super().__init__({"retention_log_beta": shape.n_head_kv})
        self.shape = shape
        self.queries: list[list[np.ndarray]] = [[] for _ in range(shape.n_layer)]
        self.keys: list[list[np.ndarray]] = [[] for _ in range(shape.n_layer)]
        self._latest: dict[str, np.ndarray] = {}

    @property
    def n_tokens(self) -> int:
        """Tokens that went through the attention of every layer."""
        return sum(map(len, self.queries[-1]))

    def _see(self, tensor: int, ask: bool, data: int) -> bool:
        base, _, layer = node_at(tensor).name.decode().rpartition("-")
        kind = base.removesuffix("_scaled").removesuffix("_normed")
        if kind not in ("Qcur", "Kcur", "kqv_out") or not layer.isdecimal():
            return super()._see(tensor, ask, data)
        if ask:
            return True
        if kind == "kqv_out":
            self.queries[int(layer)].append(self._latest.pop("Qcur"))
            self.keys[int(layer)].append(self._latest.pop("Kcur"))
        elif lib.ggml_is_contiguous(tensor):  # a view into fused q, k and v is rotated next
            values = node_at(tensor).floats()
            n_head = self.shape.n_head if kind == "Qcur" else self.shape.n_head_kv
            self._latest[kind] = values.reshape(-1, n_head, self.shape.head_size)
        return True
