"""Random gates for tiny models, with log betas that differ enough for evictions to mean something."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retain_local.gates import GateInfo, GateSet, KVzipGate, LayerGate, Linear, base_fingerprint, write_sidecar
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


def static_gates(
    n_layer: int,
    n_embd: int,
    heads: int | tuple[int, ...],
    form: str,
    seed: int = 0,
    window: int = 0,
    indices: tuple[int, ...] | None = None,
) -> GateSet:
    """Static gates on the given layers of a model (None: all), `heads` KV heads each.

    form : `linear`; `mlp`, with the exact GELU as KVzap has it; or `fast_kvzip`.
    """
    rng = np.random.default_rng(seed)
    places = tuple(range(n_layer)) if indices is None else indices
    counts = (heads,) * len(places) if isinstance(heads, int) else heads

    def linear(n_out: int, n_in: int, spread: float = 1.0) -> Linear:
        return Linear(rng.normal(0, spread / n_in**0.5, (n_out, n_in)), rng.normal(0, 0.5, n_out))

    def kvzip(n_head: int, n_key: int = 16, n_base: int = 5, n_group: int = 3) -> KVzipGate:
        return KVzipGate(
            q=linear(n_head * n_group * n_key, n_embd),
            k=linear(n_head * n_key, n_embd).weight,
            q_norm=rng.normal(1, 0.3, n_key),
            k_norm=rng.normal(1, 0.3, n_key),
            base=rng.normal(0, 1, (n_head * n_base, n_key)),
            bias=rng.normal(0, 1, n_head * n_group),
        )

    make = {
        "linear": lambda n_head: LayerGate(score=linear(n_head, n_embd)),
        "mlp": lambda n_head: LayerGate(hidden=linear(N_FF, n_embd, 2.0), score=linear(n_head, N_FF)),
        "fast_kvzip": kvzip,
    }[form]
    layers = tuple(make(n_head) for n_head in counts)
    return GateSet(layers, None, "gelu_erf", "static", window, indices, n_layer)


def equal_gates(n_layer: int, n_embd: int, n_head_kv: int) -> GateSet:
    """Static gates that give every cell the same score, which is above 0."""
    gate = LayerGate(score=Linear(np.zeros((n_head_kv, n_embd)), np.full(n_head_kv, 0.5)))
    return GateSet((gate,) * n_layer, score_kind="static")


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
