"""From hidden states and importances to gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..sidecar.gate_set import GateSet
from ..sidecar.parts import LayerGate, Linear
from .reading import Layer
from .regression import Floats, RidgeSums

LEAST = 1e-9  # of a layer's mean importance; below it the logarithm says nothing
START = (
    8.0  # mean of the gates' outputs u. There log beta = logsigmoid(u) is -exp(-u), and age·log beta keeps its order
)


@dataclass(frozen=True)
class Setting:
    """What a fit is made for.

    n_embd : of the model; layers, n_heads : its layers with cells, and their KV heads; block_count : all its layers.
    n_features : random features of each layer; 0 for linear gates.
    """

    n_embd: int
    layers: tuple[int, ...]
    n_heads: tuple[int, ...]
    block_count: int
    n_features: int = 0
    seed: int = 0


class Fit:
    """The regression of log importance on a layer's hidden state, for all layers.

    The worth of a cell to later tokens falls with its age, about as a power of it: log importance = w·h + b - d·log(age).
    What an eviction needs of that is its order, and -age·exp(-(w·h + b)/d) has the same. So gates whose output is
    u = (w·h + b)/d + constant, and whose log beta = logsigmoid(u), about -exp(-u), keep the cells worth most.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._sums = RidgeSums(setting.n_features or setting.n_embd, setting.n_heads)
        self._mean = np.zeros(2)  # sum of log importances, and their number
        self._spread = np.zeros((len(setting.layers), setting.n_embd), np.float32)  # of h, from the first document

    def add(self, layers: Sequence[Layer]) -> None:
        """Take in what was read of a document."""
        if not self._spread.any():
            self._spread = np.stack([np.sqrt(np.square(hidden).mean(axis=0)) for hidden, _ in layers])
        for at, (hidden, importance) in enumerate(layers):
            y = log_importance(importance)
            self._sums.add(at, self._inputs(at, hidden), y)
            self._mean += y.sum(), y.size

    def _inputs(self, at: int, hidden: Floats) -> Floats:
        if not self._setting.n_features:
            return hidden
        random = self._random(at)
        return np.maximum(hidden @ random.weight.T + random.bias, 0)

    def _random(self, at: int) -> Linear:
        """Random features relu(W·h + b) of a layer: each looks at h in a random direction, at inputs of one size."""
        rng = np.random.default_rng([self._setting.seed, self._setting.layers[at]])
        n, n_embd = self._setting.n_features, self._setting.n_embd
        spread = np.maximum(self._spread[at], 1e-6)
        weight = rng.standard_normal((n, n_embd)).astype(np.float32) / (spread * np.sqrt(n_embd))
        return Linear(weight.astype(np.float32), rng.standard_normal(n).astype(np.float32))

    def gates(self, ridge: float, decay: float) -> GateSet:
        """Gates from the sums so far, with scores that decay.

        Parameters
        ----------
        ridge : see `RidgeSums.solve`.
        decay : d, the power of the age by which the worth of a cell falls.
        """
        shift = np.float32(START - self._mean[0] / self._mean[1] / decay)
        scores = [
            Linear(weight / np.float32(decay), bias / np.float32(decay) + shift)
            for weight, bias in self._sums.solve(ridge)
        ]
        layers = tuple(
            LayerGate(hidden=self._random(at) if self._setting.n_features else None, score=score)
            for at, score in enumerate(scores)
        )
        return GateSet(
            layers,
            activation="relu" if self._setting.n_features else "silu",
            indices=self._setting.layers,
            block_count=self._setting.block_count,
        )

    def arrays(self) -> dict[str, npt.NDArray[np.float64] | Floats]:
        """All that `take` needs, by name."""
        cross = {f"cross_{at}": values for at, values in enumerate(self._sums.cross)}
        return {"square": self._sums.square, "mean": self._mean, "spread": self._spread, **cross}

    def take(self, arrays: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Go on from the arrays of an earlier fit with the same setting.

        Raises
        ------
        KeyError, ValueError : they are of another one.
        """
        own = self.arrays()
        for name, values in own.items():
            if arrays[name].shape != values.shape:
                raise ValueError(name)
        for name, values in own.items():
            values[...] = arrays[name]


def log_importance(importance: npt.NDArray[np.float64]) -> Floats:
    """[n_cells, H_kv] float32 from importances [H_kv, n_cells]."""
    least = LEAST * importance.mean() + np.finfo(np.float32).tiny
    return np.log(np.maximum(importance, least)).T.astype(np.float32)
