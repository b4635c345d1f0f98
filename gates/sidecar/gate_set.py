"""The gates of a model as NumPy arrays, and what makes a set of them consistent.

A gate is a small network per layer that looks at each new token's h, the output of the layer's attention input norm,
and gives one number u per KV head (weights are stored as [n_out, n_in]):

    rg10         u = W3 . act(W2 . act(W1 . h + b1) + b2) + b     W3 and b usually tied: one for all layers
    rg           u = W2 . act(W1 . h + b1) + b
    linear       u = W . h + b
    fast_kvzip   see `KVzipGate`

With decaying scores log beta = logsigmoid(u), and a cell's score is its age times log beta (arXiv 2605.09649 for `rg10`,
arXiv 2512.03324 for `rg`). With static scores u is the score itself, as of KVzap (arXiv 2601.07891).

To make static linear gates of your own and write them beside their model:

    layers = tuple(LayerGate(score=Linear(weight[il], bias[il])) for il in range(n_layer))   # [H_kv, n_embd], [H_kv]
    gates = GateSet(layers, score_kind="static", window=128)
    info = GateInfo(model.architecture, base_fingerprint=base_fingerprint(path), trained_on="...", date="2026-01-31")
    write_sidecar(model.sidecar_path(), gates, info)

`LayerGate(hidden=..., score=...)` makes an MLP, and `GateSet(..., indices=(0, 4), block_count=6)` puts gates on two of six
layers: the layers with full attention of a model whose others have none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ...models.gguf_header import GateFileError
from .parts import KVzipGate, LayerGate, Linear
from .variants import ACTIVATIONS, DECAY, FAST_KVZIP, LINEAR, RG, RG10, SCORE_KINDS, STATIC

__all__ = ["GateFileError", "GateSet", "KVzipGate", "LayerGate", "Linear"]

MAX_WINDOW = 1 << 24


@dataclass(frozen=True)
class GateSet:
    """The gates of a model.

    layers : one gate per layer that has one, all of the same form.
    score : the tied final projection [H_kv, F] of all layers; None when each layer has its own.
    activation : one of `ACTIVATIONS`: the model's own, or the one that the gates were trained with; a form without hidden
        layers has none, and what is said here does not matter.
    score_kind : `decay` (the gates give log beta) or `static` (they give the score).
    window : how many of the newest cells the maker of the gates wants kept in any case; 0 for none.
    indices : the layers of the model that the gates are of, ascending; None: the first ones, in order.
    block_count : layers of the model; None: as many as have gates.
    """

    layers: tuple[LayerGate | KVzipGate, ...]
    score: Linear | None = None
    activation: str = "silu"
    score_kind: str = DECAY
    window: int = 0
    indices: tuple[int, ...] | None = None
    block_count: int | None = None

    @property
    def variant(self) -> str:
        first = self.layers[0]
        if isinstance(first, KVzipGate):
            return FAST_KVZIP
        if first.hidden is None:
            return LINEAR
        return RG10 if first.mid is not None else RG

    @property
    def tied(self) -> bool:
        return self.score is not None

    @property
    def is_static(self) -> bool:
        return self.score_kind == STATIC

    @property
    def has_activation(self) -> bool:
        """Whether the form has layers with an activation."""
        return self.variant in (RG10, RG)

    @property
    def n_layer(self) -> int:
        """Layers of the model, with gates or without."""
        return len(self.layers) if self.block_count is None else self.block_count

    @property
    def layer_indices(self) -> tuple[int, ...]:
        """The layers of the model that have a gate, [len(layers)]."""
        return tuple(range(len(self.layers))) if self.indices is None else self.indices

    @property
    def n_embd(self) -> int:
        first = self.layers[0]
        if isinstance(first, KVzipGate):
            return np.shape(first.k)[-1]
        return np.shape((first.hidden or self.final(0)).weight)[-1]

    @property
    def n_ff(self) -> int:
        """F; 0 where the form has no hidden layer."""
        first = self.layers[0]
        hidden = None if isinstance(first, KVzipGate) else first.hidden
        return 0 if hidden is None else np.shape(hidden.weight)[0]

    @property
    def heads(self) -> tuple[int, ...]:
        """KV heads of each layer with a gate, [len(layers)]."""
        return tuple(self._n_head(at) for at in range(len(self.layers)))

    def _n_head(self, at: int) -> int:
        layer = self.layers[at]
        return layer.n_head_kv if isinstance(layer, KVzipGate) else np.shape(self.final(at).weight)[0]

    def gate_at(self, il: int) -> int:
        """Where in `layers` the gate of the model's layer `il` is; GateFileError when it has none."""
        if il not in self.layer_indices:
            raise GateFileError(f"layer {il} has no gate")
        return self.layer_indices.index(il)

    def final(self, at: int) -> Linear:
        """The final projection of `layers[at]`, tied or its own."""
        layer = self.layers[at]
        score = self.score or (None if isinstance(layer, KVzipGate) else layer.score)
        if score is None:
            raise GateFileError(f"layer {self.layer_indices[at]} has no final projection")
        return score

    def checked(self) -> GateSet:
        """These gates in float32 C order.

        Raises
        ------
        GateFileError : no layers, an unknown activation or kind of scores, a mix of forms, a projection that is tied
            where it cannot be, a shape that differs between layers where it may not, layers that are not ascending or not of
            the model, a type that is not a float, or a number that is not finite.
        """
        if not self.layers:
            raise GateFileError("a gate set needs at least one layer")
        self._check_choices()
        self._check_indices()
        if self.variant == FAST_KVZIP:
            return replace(self, layers=tuple(self._checked_kvzip()), activation=ACTIVATIONS[0])
        if any(np.ndim(linear.weight) != 2 for linear in (self._first.hidden, self.final(0)) if linear is not None):
            raise GateFileError("the weights of a gate have two dimensions")
        n_in = self.n_ff if self.has_activation else self.n_embd
        sizes = {"n_embd": self.n_embd, "H_kv": min(self.heads), "F" if self.has_activation else "n_embd": n_in}
        if 0 in sizes.values():
            raise GateFileError(f"a size of the gates is 0: {sizes}")
        if self.tied and self.variant != RG10:
            raise GateFileError(f"gates of variant {self.variant} have a final projection of their own in each layer")
        layers = tuple(self._checked_layer(at, n_in) for at in range(len(self.layers)))
        score = self.score and self.score.checked("retention_score", self.heads[0], n_in)
        activation = self.activation if self.has_activation else ACTIVATIONS[0]
        return replace(self, layers=layers, score=score, activation=activation)

    def _check_choices(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise GateFileError(f"activation '{self.activation}' is not one of {', '.join(ACTIVATIONS)}")
        if self.score_kind not in SCORE_KINDS:
            raise GateFileError(f"kind of scores '{self.score_kind}' is not one of {', '.join(SCORE_KINDS)}")
        if self.variant == RG10 and self.is_static:
            raise GateFileError("gates of variant rg10 give scores that decay")
        if self.variant == FAST_KVZIP and not self.is_static:
            raise GateFileError("gates of variant fast_kvzip give static scores")
        if not 0 <= self.window <= MAX_WINDOW:
            raise GateFileError(f"a window of {self.window} cells is out of range (0 to {MAX_WINDOW})")

    def _check_indices(self) -> None:
        indices = self.layer_indices
        if len(indices) != len(self.layers):
            raise GateFileError(f"{len(indices)} layers are named for {len(self.layers)} gates")
        if list(indices) != sorted(set(indices)) or not 0 <= indices[0] <= indices[-1] < self.n_layer:
            raise GateFileError(f"the layers of the gates are not ascending, or not among the model's {self.n_layer}")

    @property
    def _first(self) -> LayerGate:
        first = self.layers[0]
        assert isinstance(first, LayerGate)
        return first

    def _checked_kvzip(self) -> Iterator[LayerGate | KVzipGate]:
        first = self.layers[0]
        assert isinstance(first, KVzipGate)
        for il, layer in zip(self.layer_indices, self.layers):
            if not isinstance(layer, KVzipGate):
                raise GateFileError(f"layer {il} is not of variant {FAST_KVZIP} like layer {self.layer_indices[0]}")
            yield layer.checked(f"blk.{il}", first)

    def _checked_layer(self, at: int, n_in: int) -> LayerGate:
        il, layer, first = self.layer_indices[at], self.layers[at], self._first
        same = isinstance(layer, LayerGate) and all(
            (part is None) == (other is None) for part, other in ((layer.mid, first.mid), (layer.hidden, first.hidden))
        )
        if not isinstance(layer, LayerGate) or not same:
            raise GateFileError(f"layer {il} is not of variant {self.variant} like layer {self.layer_indices[0]}")
        if (layer.score is None) != self.tied:
            raise GateFileError(f"layer {il}: the final projection is either tied or given in every layer")
        return LayerGate(
            layer.hidden and layer.hidden.checked(f"blk.{il}.retention_in", self.n_ff, self.n_embd),
            layer.mid and layer.mid.checked(f"blk.{il}.retention_mid", self.n_ff, self.n_ff),
            layer.score and layer.score.checked(f"blk.{il}.retention_score", self.heads[at], n_in),
        )

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """Name and array of every tensor, in the order of the file."""
        for il, layer in zip(self.layer_indices, self.layers):
            for name, array in layer.tensors():
                yield f"blk.{il}.{name}", array
        if self.score is not None:
            yield from self.score.tensors("retention_score")
