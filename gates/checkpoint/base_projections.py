"""The projections of queries, keys and values in a GGUF model, as transformers has them."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize

from ...errors import RetainError
from ...models.gguf_header import GGML_TYPES, Header, read_header
from ...models.model_file import ModelFile, read_model_file
from ..sidecar.parts import Linear

# Architectures whose q, k and v are what transformers computes, before they are rotated and normed; in those of the second
# list the rows of q and k are in another order, because GGUF rotates neighbours where transformers rotates halves.
_PLAIN = ("phi3", "qwen2", "qwen3")
_PERMUTED = ("llama",)


class BaseProjections:
    """Reads [Wq; Wk; Wv] of one layer after the other.

    Attributes
    ----------
    n_head_kv : KV heads of each layer, [n_layer].
    n_out : rows of [Wq; Wk; Wv] in each layer, [n_layer].
    """

    def __init__(self, path: Path) -> None:
        self.model = read_model_file(path)
        if self.model.architecture not in (*_PLAIN, *_PERMUTED):
            raise RetainError(
                f"{path}: queries, keys and values of {self.model.architecture} models are not known to be those of"
                f" transformers; known are {', '.join((*_PLAIN, *_PERMUTED))}"
            )
        self.parts = _headers(self.model)
        self.n_head_kv = self.model.n_head_kv
        self.n_out = [
            sum(self._rows(f"blk.{il}.attn_{part}.weight") for part in self._names(il)) for il in self._layers
        ]

    @property
    def _layers(self) -> range:
        return range(len(self.n_head_kv))

    def _names(self, il: int) -> tuple[str, ...]:
        return ("qkv",) if self._find(f"blk.{il}.attn_qkv.weight") else ("q", "k", "v")

    def layer(self, il: int) -> Linear:
        """[Wq; Wk; Wv] of a layer, float32 [n_out, n_embd], and its biases, 0 where it has none.

        Raises
        ------
        RetainError : a tensor is missing, or of a type that cannot be unpacked.
        """
        weights, biases = [], []
        for part in self._names(il):
            weight = self._read(f"blk.{il}.attn_{part}.weight")
            bias_name = f"blk.{il}.attn_{part}.bias"
            bias = self._read(bias_name).ravel() if self._find(bias_name) else np.zeros(len(weight), np.float32)
            if self.model.architecture in _PERMUTED and part in ("q", "k"):
                weight, bias = self._restored(weight), self._restored(bias)
            weights.append(weight)
            biases.append(bias)
        return Linear(np.concatenate(weights), np.concatenate(biases))

    def _restored(self, rows: np.ndarray) -> np.ndarray:
        """The rows of each head, (pair, half) in the file, as (half, pair)."""
        head = self.model.head_k
        pairs = rows.reshape(len(rows) // head, head // 2, 2, *rows.shape[1:])
        return pairs.swapaxes(1, 2).reshape(rows.shape)

    def _find(self, name: str) -> Header | None:
        return next((part for part in self.parts if name in part.tensors), None)

    def _rows(self, name: str) -> int:
        part = self._find(name)
        if part is None:
            raise RetainError(f"{self.model.path}: tensor '{name}' is missing")
        return part.tensors[name].shape[1]

    def _read(self, name: str) -> np.ndarray:
        part = self._find(name)
        if part is None:
            raise RetainError(f"{self.model.path}: tensor '{name}' is missing")
        info = part.tensors[name]
        block, n_block = GGML_TYPES[info.type]
        rows = np.fromfile(part.path, np.uint8, info.n_bytes, offset=info.offset)
        rows = rows.reshape(-1, info.shape[0] // block * n_block)
        try:
            kind = gguf.GGMLQuantizationType(info.type)
            plain = {gguf.GGMLQuantizationType.F32: "<f4", gguf.GGMLQuantizationType.F16: "<f2"}.get(kind)
            array = rows.view(plain) if plain else dequantize(rows, kind)
        except (ValueError, NotImplementedError):
            raise RetainError(f"{self.model.path}: tensor '{name}' has a type that cannot be unpacked") from None
        return np.asarray(array, np.float32)


def _headers(model: ModelFile) -> list[Header]:
    """The headers of all files that a model is in."""
    if model.n_parts == 1:
        return [read_header(model.path)]
    n = model.n_parts
    return [read_header(model.path.with_name(f"{model.stem}-{i:05d}-of-{n:05d}.gguf")) for i in range(1, n + 1)]
