"""A PyTorch checkpoint of gates, from its files to a checked `GateSet`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..sidecar.gate_set import GateFileError, GateSet, LayerGate, Linear
from ..sidecar.variants import RG10
from .layout import (
    CONFIG_FILE,
    FINAL_PARTS,
    MODULE,
    SAFETENSORS_FILE,
    TORCH_FILE,
    CheckpointConfig,
    CheckpointError,
    GateName,
    parse_gate_name,
    part_shapes,
)
from .safetensors import MAX_HEADER, check_ordinary, read_json, read_safetensors, read_shards
from .tensor import StoredTensor
from .torch_file import read_torch

README_FILE = "README.md"
INDEX_SUFFIX = ".safetensors.index.json"
_TORCH_SUFFIXES = (".pth", ".pt", ".bin")
# where the tensors of a folder are, the likeliest first
_WEIGHTS = (TORCH_FILE, SAFETENSORS_FILE, "model.safetensors", "model" + INDEX_SUFFIX)

# activations by their names in transformers; its "gelu" is the exact one, which a sidecar has not
_ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "relu": "relu",
    "gelu_pytorch_tanh": "gelu", "gelu_new": "gelu", "gelu_fast": "gelu",
}  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and checked.

    path : the file with the tensors.
    config : what its `config.json` says.
    gates : its numbers, in float32.
    remarks : what its user should know about it, a line each.
    """

    path: Path
    config: CheckpointConfig
    gates: GateSet
    remarks: tuple[str, ...]


def read_checkpoint(source: Path) -> Checkpoint:
    """Read a checkpoint: a folder, a file of `torch.save`, or safetensors (one file, or the index of several).

    `config.json` lies in the folder, or beside the file. Tensors of the base model are left out.

    Raises
    ------
    CheckpointError : no such file, one that is damaged, a config that does not fit, a tensor of a gate that is missing,
        one that the config does not explain, or a name, shape, type or number that is not what it must be.
    """
    path = _find_weights(source)
    check_ordinary(path)
    config_path = path.with_name(CONFIG_FILE)
    if not config_path.is_file():
        raise CheckpointError(f"{config_path}: not there; a checkpoint needs the file it was saved with")
    entries = read_json(config_path)
    try:
        config = CheckpointConfig.from_dict(entries)
        if config.hidden_act not in _ACTIVATIONS:
            raise CheckpointError(f"'hidden_act' is {config.hidden_act!r:.60}, not one of {', '.join(_ACTIVATIONS)}")
    except CheckpointError as error:
        raise CheckpointError(f"{config_path}: {error}") from None
    gates, remarks = _Reader(path, config, _read_tensors(path)).gates()
    return Checkpoint(path, config, gates, remarks)


def _find_weights(source: Path) -> Path:
    """The file with the tensors."""
    if not source.exists():
        raise CheckpointError(f"{source}: no such file or folder")
    if not source.is_dir():
        return source
    try:
        return source / choose_weights([path.name for path in source.iterdir()])
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None


def choose_weights(files: Collection[str]) -> str:
    """The file with the tensors among the files of a folder; CheckpointError when there is none, or it is not clear."""
    found = [name for name in _WEIGHTS if name in files][:1]
    found = found or sorted(name for name in files if name.endswith((".pth", ".safetensors")))
    if len(found) != 1:
        what = f"more than one ({', '.join(found)}); name the file" if found else "none"
        raise CheckpointError(f"looked for a checkpoint ({', '.join(_WEIGHTS)}), found {what}")
    return found[0]


def _read_tensors(path: Path) -> dict[str, StoredTensor]:
    if path.name.endswith(INDEX_SUFFIX):
        return read_shards(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix in _TORCH_SUFFIXES:
        return read_torch(path)
    raise CheckpointError(
        f"{path}: not a checkpoint by its name; name a folder, a .pth, a .safetensors or its {INDEX_SUFFIX[1:]}"
    )


class _Reader:
    """The tensors of the gates of one checkpoint, checked before any is read."""

    def __init__(self, path: Path, config: CheckpointConfig, tensors: Mapping[str, StoredTensor]) -> None:
        self.path, self.config = path, config
        self.shapes = part_shapes(config.variant, config.n_embd, config.n_ff, config.n_head_kv)
        self.tensors = dict(self._named(tensors))
        self.arrays: dict[StoredTensor, np.ndarray] = {}  # read once, however many layers share them
        self.check()

    def _named(self, tensors: Mapping[str, StoredTensor]) -> Iterator[tuple[tuple[int, str], StoredTensor]]:
        """The gates' tensors by layer and part; CheckpointError for one that has no place in a gate."""
        prefix = None
        for text, tensor in tensors.items():
            if MODULE not in text:
                continue
            name = parse_gate_name(text)
            if name is None or name.part not in self.shapes or name.layer >= self.config.n_layer:
                raise CheckpointError(
                    f"{self.path}: tensor '{text[:120]}' has no place in gates of variant {self.config.variant} for"
                    f" {self.config.n_layer} layers, which {CONFIG_FILE} describes"
                )
            if prefix not in (None, name.prefix):
                raise CheckpointError(f"{self.path}: gates of two models: '{prefix}layers' and '{name.prefix}layers'")
            prefix = name.prefix
            yield (name.layer, name.part), tensor
        if prefix is None:
            raise CheckpointError(f"{self.path}: no retention gates in this file")
        self.prefix = prefix

    def check(self) -> None:
        """Raise CheckpointError unless every tensor is there, with the shape that the config says."""
        config, final = self.config, FINAL_PARTS[self.config.variant]
        with_final = {il for il, part in self.tensors if part in final}
        # shared tensors may have been stored once
        shares_final = config.tied and len(with_final) == 1
        for il in range(config.n_layer):
            for part, shape in self.shapes.items():
                name = GateName(self.prefix, il, part)
                tensor = self.tensors.get((il, part))
                if tensor is None and not (shares_final and part in final and il not in with_final):
                    raise CheckpointError(f"{self.path}: tensor '{name}' is missing")
                if tensor is not None and tensor.shape != shape:
                    raise CheckpointError(
                        f"{self.path}: tensor '{name}' has shape {list(tensor.shape)}, {CONFIG_FILE} says {list(shape)}"
                    )
        self.final_layers = sorted(with_final)
        self.check_bytes(set(self.tensors.values()))

    def check_bytes(self, tensors: Collection[StoredTensor]) -> None:
        """Raise CheckpointError where a small file names one run of numbers for many tensors, to fill the memory."""
        if sum(tensor.n_bytes for tensor in tensors) > sum(path.stat().st_size for path in {t.path for t in tensors}):
            raise CheckpointError(f"{self.path}: the file is damaged: its tensors have more numbers than it holds")

    def gates(self) -> tuple[GateSet, tuple[str, ...]]:
        """The gates, and what should be said about them."""
        config = self.config
        finals = {il: self.linear(il, *FINAL_PARTS[config.variant]) for il in self.final_layers}
        first = finals[self.final_layers[0]]
        is_one = config.variant == RG10 and all(_are_equal(final, first) for final in finals.values())
        if not is_one:
            self.check_bytes(self.tensors.values())
        layers = tuple(
            LayerGate(
                hidden=self.linear(il, "linear1.weight", "linear1.bias"),
                mid=self.linear(il, "linear2.weight", "linear2.bias") if config.variant == RG10 else None,
                score=None if is_one else finals[il],
            )
            for il in range(config.n_layer)
        )
        gates = GateSet(layers, first if is_one else None, _ACTIVATIONS[config.hidden_act])
        try:
            return gates.checked(), self.remarks(is_one)
        except GateFileError as error:
            raise CheckpointError(f"{self.path}: {error}") from None

    def linear(self, il: int, weight: str, bias: str) -> Linear:
        return Linear(self.finite(il, weight), self.finite(il, bias))

    def finite(self, il: int, part: str) -> np.ndarray:
        """A tensor's numbers; CheckpointError unless all are finite in float32."""
        tensor = self.tensors[il, part]
        if tensor not in self.arrays:
            with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf
                self.arrays[tensor] = tensor.read().astype(np.float32, copy=False)
        array = self.arrays[tensor]
        if not np.isfinite(array).all():
            raise CheckpointError(
                f"{self.path}: tensor '{GateName(self.prefix, il, part)}' has numbers that are not finite"
            )
        return array

    def remarks(self, is_one: bool) -> tuple[str, ...]:
        if self.config.variant == RG10 and not is_one:
            although = ", although it should be tied" if self.config.tied else ""
            return (
                f"the final projection differs from layer to layer{although},"
                " so it is kept per layer; scores of different layers may not be on one scale, and then layers that"
                " score higher keep more than their share",
            )
        return ()


def _are_equal(a: Linear, b: Linear) -> bool:
    return np.array_equal(a.weight, b.weight) and np.array_equal(a.bias, b.bias)


def checkpoint_license(checkpoint: Checkpoint) -> str | None:
    """The licence that `config.json`, or the front matter of the README beside it, names."""
    readme = checkpoint.path.with_name(README_FILE)
    if checkpoint.config.license or not readme.is_file():
        return checkpoint.config.license
    value = _front_matter(readme).get("license")
    return value if isinstance(value, str) else None


def _front_matter(readme: Path) -> Mapping[str, Any]:
    """The metadata at the start of a README; empty when there is none, or none that can be read."""
    from huggingface_hub import metadata_load  # takes a while to import

    try:
        return (metadata_load(readme) or {}) if readme.stat().st_size <= MAX_HEADER else {}
    except Exception:  # a card is a remark and decides nothing, whatever its YAML makes of its reader
        return {}
