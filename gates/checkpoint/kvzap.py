"""KVzap (arXiv 2601.07891): a linear layer or an MLP for each layer, whose output estimates log KVzip+.

The layout is that of NVIDIA's `KVzapModel` in transformers: `config.json` with `input_dim`, `output_dim`, `hidden_dim`
(none: linear) and `n_modules`, and a list of modules, `layers.N.{weight,bias}`, or `layers.N.0.…` and `layers.N.2.…` around an
exact GELU. The scores of all layers and heads are on one scale, and the newest 128 cells are always kept.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..sidecar.gate_set import GateSet, LayerGate, Linear
from ..sidecar.metadata import MAX_FF, MAX_LAYERS, MAX_WIDTH
from ..sidecar.variants import STATIC
from .files import CheckpointFiles
from .kind import About, ReadGates
from .layout import CheckpointError

name = "kvzap"
WINDOW = 128

_NAME = re.compile(r"(?P<list>(?:.+\.)?(?:layers|module_list))\.\d{1,4}\.(?:[02]\.)?(?:weight|bias)")


def fits(files: CheckpointFiles) -> bool:
    model_type = (files.entries or {}).get("model_type")
    return model_type == name or (bool(files.tensors) and all(map(_NAME.fullmatch, files.tensors)))


def read(files: CheckpointFiles, base: Path | None) -> ReadGates:
    n_layer, n_embd = _size(files, "n_modules", MAX_LAYERS), _size(files, "input_dim", MAX_WIDTH)
    n_head_kv = _size(files, "output_dim", MAX_WIDTH)
    is_linear = files.config().get("hidden_dim") is None
    n_ff = 0 if is_linear else _size(files, "hidden_dim", MAX_FF)
    prefix = _prefix(files)

    shapes: dict[str, tuple[int, ...]] = {}
    for il in range(n_layer):
        module = f"{prefix}.{il}"
        if is_linear:
            shapes |= {f"{module}.weight": (n_head_kv, n_embd), f"{module}.bias": (n_head_kv,)}
        else:
            shapes |= {f"{module}.0.weight": (n_ff, n_embd), f"{module}.0.bias": (n_ff,)}
            shapes |= {f"{module}.2.weight": (n_head_kv, n_ff), f"{module}.2.bias": (n_head_kv,)}
    files.check_bytes([files.check_shape(name, shape) for name, shape in shapes.items()])
    files.check_known(files.tensors, shapes, f"KVzap's gates of {n_layer} layers")

    def linear(module: str) -> Linear:
        return Linear(files.finite(f"{module}.weight"), files.finite(f"{module}.bias"))

    layers = tuple(
        LayerGate(score=linear(f"{prefix}.{il}"))
        if is_linear
        else LayerGate(hidden=linear(f"{prefix}.{il}.0"), score=linear(f"{prefix}.{il}.2"))
        for il in range(n_layer)
    )
    gates = GateSet(layers, activation="gelu_erf", score_kind=STATIC, window=WINDOW)
    return ReadGates(gates.checked(), About())


def _prefix(files: CheckpointFiles) -> str:
    """The name of the list of modules."""
    matches = [_NAME.fullmatch(name) for name in files.tensors]
    prefixes = sorted({match["list"] for match in matches if match is not None})
    if len(prefixes) != 1:
        raise CheckpointError(
            f"{files.path}: no list of modules, or more than one ({', '.join(prefixes)[:120] or 'none'})"
        )
    return prefixes[0]


def _size(files: CheckpointFiles, key: str, largest: int) -> int:
    value: Any = files.config().get(key)
    if type(value) is not int or not 1 <= value <= largest:
        raise CheckpointError(
            f"{files.config_path}: '{key}' is {value!r:.60}; it must be a whole number from 1 to {largest}"
        )
    return value
