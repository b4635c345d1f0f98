"""How far a head's output moves what is read of the residual stream: products of the output projections, read from the GGUF."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize

from ...models.model_file import tensor_places
from .watch import Floats

_PLAIN = {gguf.GGMLQuantizationType.F32: np.float32, gguf.GGMLQuantizationType.F16: np.float16}

logger = logging.getLogger("retain_local")


@dataclass(frozen=True)
class OutputMetric:
    """How the outputs of a layer's heads become what is added to the residual stream.

    heads : [H, d_v, d_v], W^T·W of each query head's part W [n_embd, d_v] of the output projection; where a norm follows, W is
        multiplied with the norm's weight, and always with that of the norm that reads the stream next (`reader`). float32.
    projection : [n_embd, H·d_v] where a norm follows (Gemma 2 and 3, OLMo 2, GLM 4), without its weight; None where none does.
    """

    heads: Floats
    projection: Floats | None = None

    def divisor(self, out: Floats) -> Floats:
        """What the norm divides squared sizes by: the mean square of the projected outputs [n, H, d_v], [n]; 1 without a norm."""
        if self.projection is None:
            return np.ones(len(out), np.float32)
        projected = out.reshape(len(out), -1) @ self.projection.T
        return np.asarray(np.square(projected).mean(axis=1) + np.finfo(np.float32).tiny, np.float32)


class OutputMetrics:
    """The `OutputMetric` of each layer, read from a GGUF.

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
        self._is_known = all(self._is_readable(f"blk.{il}.attn_output.weight") for il in layers)
        self._found: dict[int, OutputMetric] = {}
        if not self._is_known:
            logger.warning("the output projections cannot be read: values count by their own size")

    def of(self, il: int, n_head: int, d_v: int) -> OutputMetric:
        """Of a layer with H query heads."""
        if il not in self._found:
            if self._is_known:
                self._found[il] = self._read(il, n_head)
            else:
                self._found[il] = OutputMetric(np.tile(np.eye(d_v, dtype=np.float32), (n_head, 1, 1)))
        return self._found[il]

    def reader(self, il: int) -> Floats | None:
        """Weight [n_embd] of the norm that reads the residual stream behind a layer: the next layer's, or the model's last one.

        None where a layer reads the stream as it is (OLMo 2).
        """
        following = f"blk.{il + 1}."
        is_last = not any(name.startswith(following) for name in self._places)
        name = "output_norm.weight" if is_last else f"{following}attn_norm.weight"
        return self._values(name) if self._is_readable(name) else None

    def _read(self, il: int, n_head: int) -> OutputMetric:
        weight = self._values(f"blk.{il}.attn_output.weight")
        reader = self.reader(il)
        seen = weight if reader is None else weight * reader[:, None]
        norm = f"blk.{il}.post_attention_norm.weight"
        # without the second of the pair the first is a norm of the residual stream, as in Qwen3-Next
        if norm not in self._places or f"blk.{il}.post_ffw_norm.weight" not in self._places:
            return OutputMetric(_products(seen, n_head))
        return OutputMetric(_products(seen * self._values(norm)[:, None], n_head), weight)

    def _is_readable(self, name: str) -> bool:
        if name not in self._places:
            return False
        kind = gguf.GGMLQuantizationType(self._places[name][1].type)
        if kind in _PLAIN:
            return True
        try:
            dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except NotImplementedError:
            return False
        return True

    def _values(self, name: str) -> Floats:
        """A tensor as float32, its slowest dimension first."""
        path, info = self._places[name]
        kind = gguf.GGMLQuantizationType(info.type)
        data = np.fromfile(path, np.uint8, info.n_bytes, offset=info.offset)
        shape = tuple(reversed([n for n in info.shape if n > 1]))
        values = data.view(_PLAIN[kind]) if kind in _PLAIN else dequantize(data.reshape(shape[0], -1), kind)
        return values.astype(np.float32).reshape(shape)


def _products(weight: Floats, n_head: int) -> Floats:
    n_out, n_in = weight.shape
    heads = weight.reshape(n_out, n_head, n_in // n_head).transpose(1, 0, 2)
    return heads.transpose(0, 2, 1) @ heads
