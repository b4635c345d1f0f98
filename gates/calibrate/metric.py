"""How far a head's output moves the residual stream: products of the output projections, read from the GGUF."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize

from ...models.gguf_header import TensorInfo
from ...models.model_file import tensor_places
from .watch import Floats

_PLAIN = {gguf.GGMLQuantizationType.F32: np.float32, gguf.GGMLQuantizationType.F16: np.float16}

logger = logging.getLogger("retain_local")


class OutputMetrics:
    """W^T·W of each query head's part W [n_embd, d_v] of the output projection of a layer.

    Where a layer's projection is not in the file under its usual name, or in a type that NumPy cannot read, sizes of
    values are taken as they are, in every layer, and a warning says so.

    Parameters
    ----------
    model : the GGUF; of a split model its first part.
    layers : those that will be asked for.

    Raises
    ------
    RetainError : the file cannot be read.
    """

    def __init__(self, model: Path, layers: Sequence[int]) -> None:
        self._places = tensor_places(model)
        self._is_known = all(_name(il) in self._places and _is_readable(self._places[_name(il)][1]) for il in layers)
        self._found: dict[int, Floats] = {}
        if not self._is_known:
            logger.warning("the output projections cannot be read: values count by their own size")

    def of(self, il: int, n_head: int, d_v: int) -> Floats:
        """[H, d_v, d_v] float32 of a layer with H query heads."""
        if il not in self._found:
            if self._is_known:
                self._found[il] = _metric(*self._places[_name(il)], n_head)
            else:
                self._found[il] = np.tile(np.eye(d_v, dtype=np.float32), (n_head, 1, 1))
        return self._found[il]


def _name(il: int) -> str:
    return f"blk.{il}.attn_output.weight"


def _is_readable(info: TensorInfo) -> bool:
    kind = gguf.GGMLQuantizationType(info.type)
    if kind in _PLAIN:
        return True
    try:
        dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def _metric(path: Path, info: TensorInfo, n_head: int) -> Floats:
    n_in, n_out = info.shape[:2]
    kind = gguf.GGMLQuantizationType(info.type)
    data = np.fromfile(path, np.uint8, info.n_bytes, offset=info.offset)
    weight = data.view(_PLAIN[kind]) if kind in _PLAIN else dequantize(data.reshape(n_out, -1), kind)
    heads = weight.astype(np.float32).reshape(n_out, n_head, n_in // n_head).transpose(1, 0, 2)
    return heads.transpose(0, 2, 1) @ heads
