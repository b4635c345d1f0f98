"""How gates lie in a PyTorch checkpoint: names of the tensors, keys of the configuration.

This is the layout of the authors' code (github.com/ngocbh/trimkv), which we read and write: a folder with
`config.json`, the base model's own with a few keys more, and a state dict in which the gate of layer N is the module
`model.layers.N.self_attn.retention_gate` (another prefix before `layers` in vision-language models):

    rg10   linear1.{weight,bias}, linear2.{weight,bias}, linear3.weight, bias
    rg     linear1.{weight,bias}, linear2.weight, bias

The final projection is the last linear, which has no bias of its own, with `bias`. Where it is tied, every layer has a
copy of it, or one layer has it (safetensors stores shared tensors once).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import RetainError
from ..sidecar.gate_set import GateSet, LayerGate
from ..sidecar.metadata import MAX_FF, MAX_LAYERS, MAX_WIDTH
from ..sidecar.variants import RG, RG10, TRAINED_VARIANTS

CONFIG_FILE = "config.json"
TORCH_FILE = "trimkv_weights.pth"
SAFETENSORS_FILE = "gates.safetensors"  # what our own training writes

DEFAULT_PREFIX = "model."
MODULE = "retention_gate"  # in the name of every tensor of a gate
_NAME = re.compile(
    rf"(?P<prefix>|.+\.)layers\.(?P<layer>0|[1-9][0-9]{{0,3}})\.self_attn\.{MODULE}\.(?P<part>.+)", re.DOTALL
)

# tensors of gates, of whatever kind, among those of a base model
_GATE_TENSOR = re.compile(
    rf".*{MODULE}.*"
    r"|(.+\.)?layers\.\d+\.self_attn\.fc[12]\.weight"  # Locret
    r"|(.+\.)?(layers|module_list)\.\d+\.([02]\.)?(weight|bias)",  # KVzap
    re.DOTALL,
)

FINAL_PARTS = {RG10: ("linear3.weight", "bias"), RG: ("linear2.weight", "bias")}


class CheckpointError(RetainError):
    """A PyTorch checkpoint of gates cannot be used; the message is one line and names the file."""


@dataclass(frozen=True)
class GateName:
    """The name of a gate's tensor, taken apart: `{prefix}layers.{layer}.self_attn.retention_gate.{part}`."""

    prefix: str
    layer: int
    part: str

    def __str__(self) -> str:
        return f"{self.prefix}layers.{self.layer}.self_attn.{MODULE}.{self.part}"


def parse_gate_name(name: str) -> GateName | None:
    """The parts of a tensor's name; None when it is no name of a gate's tensor."""
    match = _NAME.fullmatch(name)
    return match and GateName(match["prefix"], int(match["layer"]), match["part"])


def is_gate_tensor(name: str) -> bool:
    """Whether a tensor among those of a base model belongs to gates, by its name."""
    return _GATE_TENSOR.fullmatch(name) is not None


def part_shapes(variant: str, n_embd: int, n_ff: int, n_head_kv: int) -> dict[str, tuple[int, ...]]:
    """Every part of a gate and its shape, in the order of the module."""
    shapes: dict[str, tuple[int, ...]] = {"linear1.weight": (n_ff, n_embd), "linear1.bias": (n_ff,)}
    if variant == RG10:
        shapes |= {"linear2.weight": (n_ff, n_ff), "linear2.bias": (n_ff,)}
    weight, bias = FINAL_PARTS[variant]
    return shapes | {weight: (n_head_kv, n_ff), bias: (n_head_kv,)}


def state_dict(gates: GateSet, prefix: str = DEFAULT_PREFIX) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by name; a tied final projection is the same array in every layer.

    Raises
    ------
    CheckpointError : the gates are of another form than `rg10` and `rg`.
    """
    return {
        str(GateName(prefix, il, part)): array
        for at, il in enumerate(gates.layer_indices)
        for part, array in _layer_parts(gates, at).items()
    }


def _layer_parts(gates: GateSet, at: int) -> dict[str, np.ndarray]:
    layer = gates.layers[at]
    if not isinstance(layer, LayerGate) or layer.hidden is None:
        raise CheckpointError(f"gates of variant {gates.variant} have no place in a checkpoint of this layout")
    parts = {"linear1.weight": layer.hidden.weight, "linear1.bias": layer.hidden.bias}
    if layer.mid is not None:
        parts |= {"linear2.weight": layer.mid.weight, "linear2.bias": layer.mid.bias}
    weight, bias = FINAL_PARTS[gates.variant]
    return parts | {weight: gates.final(at).weight, bias: gates.final(at).bias}


@dataclass(frozen=True)
class CheckpointConfig:
    """What `config.json` says about the gates and the model they are for.

    variant : `rg10` or `rg`.
    tied : whether one final projection was trained for all layers.
    n_ff, n_embd, n_layer, n_head_kv : sizes.
    gated_layers : the layers that have gates, ascending; (): all.
    hidden_act : the activation, by its name in transformers.
    model_type : of the language model, by its name in transformers; "" when the file does not say.
    base_model : repository or path of the base model.
    trained_budget : M in training; a fraction of the sequence where it is below 1.
    trained_context_length : tokens of context in training.
    license : of the checkpoint.
    """

    variant: str
    tied: bool
    n_ff: int
    n_embd: int
    n_layer: int
    n_head_kv: int
    hidden_act: str
    model_type: str = ""
    base_model: str | None = None
    trained_budget: float | None = None
    trained_context_length: int | None = None
    license: str | None = None
    gated_layers: tuple[int, ...] = ()

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that have gates."""
        return self.gated_layers or tuple(range(self.n_layer))

    def to_dict(self) -> dict[str, Any]:
        """The entries of `config.json`; what is not known is left out."""
        entries = {key: getattr(self, field) for field, key in _KEYS.items()}
        if len(self.layers) < self.n_layer:
            entries[_LAYERS] = list(self.layers)
        return {key: value for key, value in entries.items() if value not in (None, "")}

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> CheckpointConfig:
        """Read and check the entries of `config.json`; those of the language model may be in its `text_config`.

        Raises
        ------
        CheckpointError : a key is missing, or its value is not what it can be.
        """
        entries = _Entries(config)
        variant = entries.one_of("retention_gate", TRAINED_VARIANTS)
        n_layer = entries.size("num_hidden_layers", MAX_LAYERS)
        kv_heads = "num_key_value_heads" if entries.get("num_key_value_heads") is not None else "num_attention_heads"
        return cls(
            variant=variant,
            tied=variant == RG10 and entries.optional("tie_retention_gate_layers", bool) is not False,
            n_ff=entries.size("retention_gate_intermediate_size", MAX_FF),
            n_embd=entries.size("hidden_size", MAX_WIDTH),
            n_layer=n_layer,
            n_head_kv=entries.size(kv_heads, MAX_WIDTH),
            hidden_act=entries.text("hidden_act"),
            model_type=_model_type(entries),
            base_model=entries.optional("base_model", str),
            trained_budget=entries.optional("memory_size", (int, float)),
            trained_context_length=entries.optional("max_seq_len", int),
            license=entries.optional("license", str),
            gated_layers=_gated_layers(entries, n_layer),
        )


def _gated_layers(entries: _Entries, n_layer: int) -> tuple[int, ...]:
    layers = entries.optional(_LAYERS, list) or []
    are_right = all(isinstance(il, int) and not isinstance(il, bool) and 0 <= il < n_layer for il in layers)
    if not are_right or layers != sorted(set(layers)):
        raise CheckpointError(f"'{_LAYERS}' is {_shown(layers)}; it must be layers from 0 to {n_layer - 1}, ascending")
    return tuple(layers)


# of models in which some layers have no gate: a sliding window, or no attention
_LAYERS = "retention_gate_layers"
# field -> key of config.json
_KEYS = {
    "variant": "retention_gate",
    "n_ff": "retention_gate_intermediate_size",
    "tied": "tie_retention_gate_layers",
    "trained_budget": "memory_size",
    "trained_context_length": "max_seq_len",
    "base_model": "base_model",
    "license": "license",
    "model_type": "model_type",
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head_kv": "num_key_value_heads",
    "hidden_act": "hidden_act",
}


class _Entries:
    """The entries of a `config.json`, those of its language model first."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        text = config.get("text_config")
        self._levels = (text, config) if isinstance(text, Mapping) else (config,)

    def get(self, key: str) -> Any:
        return next((level[key] for level in self._levels if level.get(key) is not None), None)

    def optional(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """A value of one of these types, above 0 if it is a number; None when absent."""
        value = self.get(key)
        if value is None:
            return None
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        is_wrong_type = not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)
        if is_wrong_type or (is_number and not 0 < value < 2**32):
            raise CheckpointError(f"'{key}' is {_shown(value)}")
        return value

    def size(self, key: str, largest: int) -> int:
        value = self.get(key)
        if value is None:
            raise CheckpointError(f"'{key}' is missing")
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
            raise CheckpointError(f"'{key}' is {_shown(value)}; it must be a whole number from 1 to {largest}")
        return value

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str):
            raise CheckpointError(f"'{key}' is missing" if value is None else f"'{key}' is {_shown(value)}")
        return value

    def one_of(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in choices:
            raise CheckpointError(f"'{key}' is {_shown(value)}, which is not one of {', '.join(choices)}")
        return value


def _model_type(entries: _Entries) -> str:
    """`model_type`, or else the name of the class that the base model is loaded with."""
    found = entries.optional("model_type", str) or entries.optional("architectures", list) or ""
    return found if isinstance(found, str) else str(found[0])


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
