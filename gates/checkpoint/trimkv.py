"""Gates of the authors of the method, and those that `gates train` writes; `layout` says how they lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ..sidecar.gate_set import GateFileError, GateSet, LayerGate, Linear
from ..sidecar.variants import RG10
from .files import CheckpointFiles
from .kind import About, ReadGates
from .layout import (
    CONFIG_FILE,
    FINAL_PARTS,
    MODULE,
    CheckpointConfig,
    CheckpointError,
    GateName,
    parse_gate_name,
    part_shapes,
)
from .tensor import StoredTensor

# activations by their names in transformers, whose "gelu" is the exact one
ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "relu": "relu", "gelu": "gelu_erf",
    "gelu_pytorch_tanh": "gelu", "gelu_new": "gelu", "gelu_fast": "gelu",
}  # fmt: skip


name = "trimkv"


def fits(files: CheckpointFiles) -> bool:
    return "retention_gate" in (files.entries or {}) or any(MODULE in tensor for tensor in files.tensors)


def read(files: CheckpointFiles, base: Path | None) -> ReadGates:
    config = read_config(files)
    gates, remarks = _Reader(files, config).gates()
    about = About(
        config.model_type, config.base_model, config.trained_budget, config.trained_context_length, config.license
    )
    return ReadGates(gates, about, remarks)


def read_config(files: CheckpointFiles) -> CheckpointConfig:
    """What `config.json` says; CheckpointError where that is not enough, or wrong."""
    entries = files.config()
    try:
        config = CheckpointConfig.from_dict(entries)
        if config.hidden_act not in ACTIVATIONS:
            raise CheckpointError(f"'hidden_act' is {config.hidden_act!r:.60}, not one of {', '.join(ACTIVATIONS)}")
    except CheckpointError as error:
        raise CheckpointError(f"{files.config_path}: {error}") from None
    return config


class _Reader:
    """The tensors of the gates of one checkpoint, checked before any is read."""

    def __init__(self, files: CheckpointFiles, config: CheckpointConfig) -> None:
        self.files, self.path, self.config = files, files.path, config
        self.shapes = part_shapes(config.variant, config.n_embd, config.n_ff, config.n_head_kv)
        self.tensors = dict(self._named(files.tensors))
        self.check()

    def _named(self, tensors: Mapping[str, StoredTensor]) -> Iterator[tuple[tuple[int, str], StoredTensor]]:
        """The gates' tensors by layer and part; CheckpointError for one that has no place in a gate."""
        prefix = None
        for text, tensor in tensors.items():
            if MODULE not in text:
                continue
            name = parse_gate_name(text)
            if name is None or name.part not in self.shapes or name.layer not in self.config.layers:
                raise CheckpointError(
                    f"{self.path}: tensor '{text[:120]}' has no place in gates of variant {self.config.variant} for"
                    f" {len(self.config.layers)} layers, which {CONFIG_FILE} describes"
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
        for il in config.layers:
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
        self.files.check_bytes(set(self.tensors.values()))

    def gates(self) -> tuple[GateSet, tuple[str, ...]]:
        """The gates, and what should be said about them."""
        config = self.config
        finals = {il: self.linear(il, *FINAL_PARTS[config.variant]) for il in self.final_layers}
        first = finals[self.final_layers[0]]
        is_one = config.variant == RG10 and all(_are_equal(final, first) for final in finals.values())
        if not is_one:
            self.files.check_bytes(self.tensors.values())
        layers = tuple(
            LayerGate(
                hidden=self.linear(il, "linear1.weight", "linear1.bias"),
                mid=self.linear(il, "linear2.weight", "linear2.bias") if config.variant == RG10 else None,
                score=None if is_one else finals[il],
            )
            for il in config.layers
        )
        indices = config.layers if len(config.layers) < config.n_layer else None
        gates = GateSet(
            layers,
            first if is_one else None,
            ACTIVATIONS[config.hidden_act],
            indices=indices,
            block_count=config.n_layer,
        )
        try:
            return gates.checked(), self.remarks(is_one)
        except GateFileError as error:
            raise CheckpointError(f"{self.path}: {error}") from None

    def linear(self, il: int, weight: str, bias: str) -> Linear:
        return Linear(*(self.files.finite(str(GateName(self.prefix, il, part))) for part in (weight, bias)))

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
