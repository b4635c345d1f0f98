"""Fast KVzip (arXiv 2601.17668): a small attention for each layer, see `sidecar.parts.KVzipGate`.

The layout is that of the authors' files (github.com/Janghyun1230/FastKVzip): what `torch.save` wrote of a dict whose `module` is a
list with the state dict of each layer's gate. Of a model with sliding windows the list has the gates of the layers without one.
Their code keeps the newest 8 cells while it writes.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ...models.model_file import read_model_file
from ..sidecar.gate_set import GateSet, KVzipGate, Linear
from ..sidecar.metadata import MAX_LAYERS
from ..sidecar.variants import STATIC
from .files import CheckpointFiles
from .kind import About, ReadGates
from .layout import CheckpointError

name = "fast_kvzip"
WINDOW = 8

_NAME = re.compile(r"module\.(?P<layer>\d{1,4})\.(?P<part>.+)", re.DOTALL)
_FULL_EVERY = {"gemma3": 6}  # one layer in so many, the last of them, has no sliding window

_PARTS = ("q_proj.weight", "q_proj.bias", "k_proj.weight", "q_norm.weight", "k_norm.weight", "k_base", "b")


def fits(files: CheckpointFiles) -> bool:
    return any((match := _NAME.fullmatch(name)) and match["part"] == "k_base" for name in files.tensors)


def read(files: CheckpointFiles, base: Path | None) -> ReadGates:
    matches = [match for name in files.tensors if (match := _NAME.fullmatch(name))]
    indices = sorted({int(match["layer"]) for match in matches})
    if indices[-1] >= MAX_LAYERS:
        raise CheckpointError(f"{files.path}: it has a gate for layer {indices[-1]}, more than any model has")
    known = {f"module.{il}.{part}" for il in indices for part in _PARTS}
    files.check_known([match.string for match in matches], known, "Fast KVzip's gates")
    for il in indices:
        _check_layer(files, f"module.{il}", f"module.{indices[0]}")
    files.check_bytes([files.tensors[name] for name in known])
    places, n_layer = _places(indices, base)
    gates = GateSet(
        tuple(_gate(files, f"module.{il}") for il in indices),
        score_kind=STATIC,
        window=WINDOW,
        indices=places,
        block_count=n_layer,
    )
    return ReadGates(gates.checked(), About())


def _places(indices: list[int], base: Path | None) -> tuple[tuple[int, ...], int]:
    """The layers of the model that the gates are of, and how many it has."""
    if base is not None:
        model = read_model_file(base)
        n_layer, every = len(model.n_head_kv), _FULL_EVERY.get(model.architecture)
        full = tuple(range(every - 1, n_layer, every)) if every else ()
        if len(indices) == len(full):
            return full, n_layer
    return tuple(indices), indices[-1] + 1


def _check_layer(files: CheckpointFiles, module: str, first: str) -> None:
    """Raise CheckpointError unless all parts of a gate are there, with shapes that fit each other and the first layer's."""

    def shape(part: str, n_dims: int) -> tuple[int, ...]:
        found = files.tensors.get(f"{first}.{part}")
        if found is None or len(found.shape) != n_dims or 0 in found.shape:
            raise CheckpointError(f"{files.path}: tensor '{first}.{part}' is missing, or not of {n_dims} dimensions")
        return found.shape

    n_head, _, n_base, n_key = shape("k_base", 4)
    n_group, n_embd = shape("b", 3)[2], shape("q_proj.weight", 2)[1]
    for part, expected in (
        ("q_proj.weight", (n_head * n_group * n_key, n_embd)),
        ("q_proj.bias", (n_head * n_group * n_key,)),
        ("k_proj.weight", (n_head * n_key, n_embd)),
        ("q_norm.weight", (n_key,)),
        ("k_norm.weight", (n_key,)),
        ("k_base", (n_head, 1, n_base, n_key)),
        ("b", (n_head, 1, n_group)),
    ):
        files.check_shape(f"{module}.{part}", expected)


def _gate(files: CheckpointFiles, module: str) -> KVzipGate:
    def part(name: str) -> np.ndarray:
        return files.finite(f"{module}.{name}")

    n_key = len(part("q_norm.weight"))
    return KVzipGate(
        q=Linear(part("q_proj.weight"), part("q_proj.bias")),
        k=part("k_proj.weight"),
        q_norm=part("q_norm.weight"),
        k_norm=part("k_norm.weight"),
        base=part("k_base").reshape(-1, n_key),
        bias=part("b").ravel(),
    )
