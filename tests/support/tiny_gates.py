"""Random gates for tiny models, with log betas that differ enough for evictions to mean something."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retain_local.gates import GateInfo, GateSet, LayerGate, Linear, base_fingerprint, write_sidecar
from support.tiny_models import TinyModel

N_FF = 64


def random_gates(
    n_layer: int, n_embd: int, n_head_kv: int, variant: str = "rg10", tied: bool = True, seed: int = 0, n_ff: int = N_FF
) -> GateSet:
    """Gates of the given sizes whose u, for hidden states of variance 1, spreads around biases from N(3, 2)."""
    rng = np.random.default_rng(seed)

    def linear(n_out: int, n_in: int, gain: float, bias: np.ndarray) -> Linear:
        return Linear(rng.normal(0, gain / n_in**0.5, (n_out, n_in)), bias)

    def hidden(n_in: int) -> Linear:
        return linear(n_ff, n_in, 1.5, rng.normal(0, 0.3, n_ff))

    def score() -> Linear:
        return linear(n_head_kv, n_ff, 2.0, rng.normal(3, 2, n_head_kv))

    layers = tuple(
        LayerGate(hidden(n_embd), hidden(n_ff) if variant == "rg10" else None, None if tied else score())
        for _ in range(n_layer)
    )
    return GateSet(layers, score() if tied else None)


def constant_gates(n_embd: int, biases: np.ndarray) -> GateSet:
    """Gates that ignore the token: log beta is logsigmoid(biases [L, H_kv]) of the layer and head."""
    gates = random_gates(len(biases), n_embd, biases.shape[1], tied=False)
    layers = (
        LayerGate(layer.hidden, layer.mid, Linear(np.zeros((len(bias), N_FF)), bias))
        for layer, bias in zip(gates.layers, biases)
    )
    return GateSet(tuple(layers))


def write_tiny_gates(path: Path, model_path: Path, model: TinyModel, gates: GateSet, weight_type: str = "f32") -> Path:
    """Write gates for a tiny model, with its fingerprint."""
    write_sidecar(path, gates, GateInfo(model.arch, base_fingerprint=base_fingerprint(model_path)), weight_type)
    return path
