"""The gates of a model as NumPy arrays, and what makes a set of them consistent.

A gate is a small network per layer that gives each new token log beta for every KV head (arXiv 2605.09649 for `rg10`,
arXiv 2512.03324 for `rg`):

    rg10   u = W3 . act(W2 . act(W1 . h + b1) + b2) + b      W3 and b usually tied: one for all layers
    rg     u = W2 . act(W1 . h + b1) + b
    log beta = logsigmoid(u)

with h the output of the layer's attention input norm. Weights are stored as [n_out, n_in].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...models.gguf_header import GateFileError
from .variants import RG, RG10

ACTIVATIONS = ("silu", "gelu", "relu")


@dataclass(frozen=True)
class Linear:
    """weight [n_out, n_in] and bias [n_out]."""

    weight: np.ndarray
    bias: np.ndarray

    def checked(self, name: str, n_out: int, n_in: int) -> Linear:
        """This projection in float32; GateFileError unless it has exactly this shape and only finite numbers."""
        arrays = []
        for part, array, shape in (("weight", self.weight, (n_out, n_in)), ("bias", self.bias, (n_out,))):
            array = np.asarray(array)
            if not np.issubdtype(array.dtype, np.floating):
                raise GateFileError(f"{name}.{part}: type {array.dtype} is not a float type")
            if array.shape != shape:
                raise GateFileError(f"{name}.{part}: shape {list(array.shape)} is not {list(shape)}")
            with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, which the next line refuses
                array = np.ascontiguousarray(array, np.float32)
            if not np.isfinite(array).all():
                raise GateFileError(f"{name}.{part}: not all numbers are finite")
            arrays.append(array)
        return Linear(*arrays)


@dataclass(frozen=True)
class LayerGate:
    """The gate of one layer.

    hidden : W1, b1 [F, n_embd].
    mid : W2, b2 [F, F] of `rg10`; None in `rg`.
    score : the final projection [H_kv, F]; None when it is tied.
    """

    hidden: Linear
    mid: Linear | None = None
    score: Linear | None = None


@dataclass(frozen=True)
class GateSet:
    """The gates of all layers of a model.

    layers : one gate per layer.
    score : the tied final projection [H_kv, F] of all layers; None when each layer has its own.
    activation : one of `ACTIVATIONS`, the model's own.
    """

    layers: tuple[LayerGate, ...]
    score: Linear | None = None
    activation: str = "silu"

    @property
    def variant(self) -> str:
        return RG10 if self.layers[0].mid is not None else RG

    @property
    def tied(self) -> bool:
        return self.score is not None

    @property
    def n_layer(self) -> int:
        return len(self.layers)

    @property
    def n_embd(self) -> int:
        return np.shape(self.layers[0].hidden.weight)[-1]

    @property
    def n_ff(self) -> int:
        return np.shape(self.layers[0].hidden.weight)[0]

    @property
    def n_head_kv(self) -> int:
        return np.shape(self.final(0).weight)[0]

    def final(self, il: int) -> Linear:
        """The final projection that layer `il` uses, tied or its own."""
        score = self.score or self.layers[il].score
        if score is None:
            raise GateFileError(f"layer {il} has no final projection")
        return score

    def checked(self) -> GateSet:
        """These gates in float32 C order.

        Raises
        ------
        GateFileError : no layers, an unknown activation, a mix of variants, `rg` with a tied projection, a shape that
            differs between layers, a type that is not a float, or a number that is not finite.
        """
        if not self.layers:
            raise GateFileError("a gate set needs at least one layer")
        if self.activation not in ACTIVATIONS:
            raise GateFileError(f"activation '{self.activation}' is not one of {', '.join(ACTIVATIONS)}")
        if any(np.ndim(linear.weight) != 2 for linear in (self.layers[0].hidden, self.final(0))):
            raise GateFileError("the weights of a gate have two dimensions")
        if self.variant == RG and self.tied:
            raise GateFileError("gates of variant rg have a final projection of their own in each layer")
        sizes = {"n_embd": self.n_embd, "F": self.n_ff, "H_kv": self.n_head_kv}
        if 0 in sizes.values():
            raise GateFileError(f"a size of the gates is 0: {sizes}")
        layers = tuple(self._checked_layer(il, layer) for il, layer in enumerate(self.layers))
        score = self.score and self.score.checked("retention_score", self.n_head_kv, self.n_ff)
        return GateSet(layers, score, self.activation)

    def _checked_layer(self, il: int, layer: LayerGate) -> LayerGate:
        if (layer.mid is None) != (self.variant == RG):
            raise GateFileError(f"layer {il} is not of variant {self.variant} like layer 0")
        if (layer.score is None) != self.tied:
            raise GateFileError(f"layer {il}: the final projection is either tied or given in every layer")
        return LayerGate(
            layer.hidden.checked(f"blk.{il}.retention_in", self.n_ff, self.n_embd),
            layer.mid and layer.mid.checked(f"blk.{il}.retention_mid", self.n_ff, self.n_ff),
            layer.score and layer.score.checked(f"blk.{il}.retention_score", self.n_head_kv, self.n_ff),
        )

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """Name and array of every tensor, in the order of the file."""
        for il, layer in enumerate(self.layers):
            parts = {"retention_in": layer.hidden, "retention_mid": layer.mid, "retention_score": layer.score}
            for part, linear in parts.items():
                if linear is not None:
                    yield f"blk.{il}.{part}.weight", linear.weight
                    yield f"blk.{il}.{part}.bias", linear.bias
        if self.score is not None:
            yield "retention_score.weight", self.score.weight
            yield "retention_score.bias", self.score.bias
