"""Locret (arXiv 2410.01805): an MLP on a token's query, key and value before they are rotated, which has no biases.

    score = fc2 . act(fc1 . [q; k; v]),   [q; k; v] = [Wq; Wk; Wv] . h + [bq; bk; bv]

As q, k and v are linear in h, the first layer folds exactly into one on h: (fc1 . [Wq; Wk; Wv]) . h + fc1 . [bq; bk; bv]. The
projections are taken from the GGUF of the base model, so that the gates see the q, k and v of the model that is run.

The layout is that of the authors' models (github.com/huangyuxiang03/Locret): `model.layers.N.self_attn.fc1.weight` [F, q + k + v]
and `fc2.weight` [H_kv, F], among the tensors of the base model or alone. Of a budget of 6,000 cells they keep the newest 2,500.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ..sidecar.gate_set import GateSet, LayerGate, Linear
from ..sidecar.metadata import MAX_FF
from ..sidecar.variants import STATIC
from .base_projections import BaseProjections
from .files import CheckpointFiles
from .kind import About, ReadGates
from .layout import CheckpointError
from .trimkv import ACTIVATIONS

name = "locret"
WINDOW = 2500

_NAME = re.compile(r"(?P<prefix>(?:.+\.)?layers)\.(?P<layer>\d{1,4})\.self_attn\.(?P<part>fc[12]\.weight)")


def fits(files: CheckpointFiles) -> bool:
    return any(map(_NAME.fullmatch, files.tensors))


def read(files: CheckpointFiles, base: Path | None) -> ReadGates:
    if base is None:
        raise CheckpointError(
            f"{files.path}: Locret's gates read queries, keys and values; name the model that computes them with --base"
        )
    activation = _activation(files)
    model = BaseProjections(base)
    prefix, n_ff = _prefix_and_width(files)

    shapes: dict[str, tuple[int, ...]] = {}
    for il, (n_out, n_head_kv) in enumerate(zip(model.n_out, model.n_head_kv)):
        module = f"{prefix}.{il}.self_attn"
        shapes |= {f"{module}.fc1.weight": (n_ff, n_out), f"{module}.fc2.weight": (n_head_kv, n_ff)}
    files.check_bytes([files.check_shape(name, shape) for name, shape in shapes.items()])
    ours = [name for name in files.tensors if _NAME.fullmatch(name)]
    files.check_known(ours, shapes, f"Locret's gates for {base}, which has {len(model.n_out)} layers")

    layers = []
    for il in range(len(model.n_out)):
        module = f"{prefix}.{il}.self_attn"
        fc1 = files.finite(f"{module}.fc1.weight", keep=False).astype(np.float64)
        fc2 = files.finite(f"{module}.fc2.weight")
        projection = model.layer(il)
        hidden = Linear(
            *((fc1 @ part.astype(np.float64)).astype(np.float32) for part in (projection.weight, projection.bias))
        )
        layers.append(LayerGate(hidden=hidden, score=Linear(fc2, np.zeros(len(fc2), np.float32))))
    gates = GateSet(tuple(layers), activation=activation, score_kind=STATIC, window=WINDOW)
    return ReadGates(gates.checked(), About())


def _activation(files: CheckpointFiles) -> str:
    """The model's own; both models that Locret was made for have silu."""
    named = (files.entries or {}).get("hidden_act", "silu")
    if not isinstance(named, str) or named not in ACTIVATIONS:
        raise CheckpointError(
            f"{files.config_path}: 'hidden_act' is {named!r:.60}, not one of {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[named]


def _prefix_and_width(files: CheckpointFiles) -> tuple[str, int]:
    """The name of the list of layers, and F."""
    matches = [match for name in files.tensors if (match := _NAME.fullmatch(name))]
    prefixes = {match["prefix"] for match in matches}
    if len(prefixes) > 1:
        raise CheckpointError(f"{files.path}: gates of two models: {', '.join(sorted(prefixes))[:120]}")
    prefix = prefixes.pop()
    first = files.tensors.get(f"{prefix}.0.self_attn.fc1.weight")
    if first is None or len(first.shape) != 2 or not 1 <= first.shape[0] <= MAX_FF:
        raise CheckpointError(f"{files.path}: tensor '{prefix}.0.self_attn.fc1.weight' is missing, or no matrix")
    return prefix, first.shape[0]
