"""The metadata of a gate sidecar: which gates it holds, for which model, and where they come from.

docs/gate-sidecar.md has the keys. Version 2 is written; version 1, whose gates are of all layers and decay, is read too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import gguf
import numpy as np

from ...models.gguf_header import BOOL, STRING, U32, GateFileError, Header
from .gate_set import MAX_WINDOW, GateSet
from .parts import KVzipGate
from .variants import ACTIVATIONS, DECAY, FAST_KVZIP, RG, RG10, SCORE_KINDS, STATIC, TRAINED_VARIANTS, VARIANTS

VERSION = 2
PREFIX = "retention_gate"

# No real gate comes near these: counts beyond them are damage, not models.
MAX_LAYERS, MAX_WIDTH, MAX_FF, MAX_PART = 1024, 1 << 20, 1 << 16, 1 << 10

_VERSION_1_ACTIVATIONS = ("silu", "gelu", "relu")


@dataclass(frozen=True)
class GateInfo:
    """What a sidecar says about its gates, beside the numbers.

    architecture : of the base model, as in its own GGUF (`llama`, `qwen3`, ...).
    name : of the gates.
    trained_budget, trained_context_length : M and tokens in training, or None.
    base_name : of the base model.
    base_fingerprint : `base_fingerprint()` of it; a sidecar without one is not tied to a vocabulary.
    source, license : where the gates come from, and their licence.
    trained_on : the texts that the gates were trained or calibrated on.
    date : when they were made, as in 2026-01-31.
    """

    architecture: str
    name: str = "retention gates"
    trained_budget: int | None = None
    trained_context_length: int | None = None
    base_name: str | None = None
    base_fingerprint: str | None = None
    source: str | None = None
    license: str | None = None
    trained_on: str | None = None
    date: str | None = None


# metadata key, GGUF type and GateInfo field of what may be absent
_OPTIONAL = (
    ("general.name", STRING, "name"),
    (f"{PREFIX}.trained_budget", U32, "trained_budget"),
    (f"{PREFIX}.trained_context_length", U32, "trained_context_length"),
    (f"{PREFIX}.base_name", STRING, "base_name"),
    (f"{PREFIX}.base_fingerprint", STRING, "base_fingerprint"),
    (f"{PREFIX}.source", STRING, "source"),
    ("general.license", STRING, "license"),
    (f"{PREFIX}.trained_on", STRING, "trained_on"),
    (f"{PREFIX}.date", STRING, "date"),
)


@dataclass(frozen=True)
class GateShape:
    """What the metadata says about the numbers: the fields are those of `GateSet` and `KVzipGate`."""

    variant: str
    tied: bool
    activation: str
    score_kind: str
    window: int
    indices: tuple[int, ...]
    heads: tuple[int, ...]
    block_count: int
    n_embd: int
    n_ff: int
    n_key: int
    n_base: int
    n_group: int


def add_metadata(writer: gguf.GGUFWriter, gates: GateSet, info: GateInfo) -> None:
    """Write the metadata of checked gates."""
    writer.add_type("adapter")
    writer.add_string("adapter.type", PREFIX)
    writer.add_uint32(f"{PREFIX}.version", VERSION)
    writer.add_string(f"{PREFIX}.variant", gates.variant)
    writer.add_string(f"{PREFIX}.score", gates.score_kind)
    writer.add_uint32(f"{PREFIX}.block_count", gates.n_layer)
    writer.add_uint32(f"{PREFIX}.embedding_length", gates.n_embd)
    for key, values in (("layers", gates.layer_indices), ("head_count_kv", gates.heads)):
        writer.add_key_value(
            f"{PREFIX}.{key}", list(values), gguf.GGUFValueType.ARRAY, sub_type=gguf.GGUFValueType.UINT32
        )
    if gates.has_activation:
        writer.add_bool(f"{PREFIX}.tied", gates.tied)
        writer.add_uint32(f"{PREFIX}.feed_forward_length", gates.n_ff)
        writer.add_string(f"{PREFIX}.activation", gates.activation)
    if isinstance(first := gates.layers[0], KVzipGate):
        writer.add_uint32(f"{PREFIX}.key_length", first.n_key)
        writer.add_uint32(f"{PREFIX}.base_count", first.n_base)
        writer.add_uint32(f"{PREFIX}.group_count", first.n_group)
    if gates.window:
        writer.add_uint32(f"{PREFIX}.window", gates.window)
    for key, type, field in _OPTIONAL:
        value = getattr(info, field)
        if value is not None and type == U32:
            writer.add_uint32(key, value)
        elif value is not None:  # names of files, and texts of a JSON file, may hold what no text can
            writer.add_string(key, value.encode("utf-8", errors="replace").decode())


def read_info(header: Header) -> GateInfo:
    """What a sidecar says about its gates beside the numbers; GateFileError for a value of the wrong type."""
    given = {field: header.require(key, type) for key, type, field in _OPTIONAL if key in header.fields}
    info = GateInfo(header.require("general.architecture", STRING), **given)
    if info.base_fingerprint is not None and not re.fullmatch("[0-9a-f]{16}", info.base_fingerprint):
        raise GateFileError(f"{header.path}: base_fingerprint '{info.base_fingerprint}' is not 16 hex digits")
    return info


def read_shape(header: Header) -> GateShape:
    """Read and check what a sidecar says about its numbers.

    Raises
    ------
    GateFileError : not a gate sidecar, a newer version, or a key that is missing, or has the wrong type or value.
    """
    kind = header.get("general.type", STRING), header.get("adapter.type", STRING)
    if kind != ("adapter", PREFIX):
        raise GateFileError(f"{header.path}: not a gate sidecar")
    version = header.require(f"{PREFIX}.version", U32)
    if version not in (1, VERSION):
        raise GateFileError(f"{header.path}: sidecar version {version} is not supported (this program reads 1 and 2)")
    return _Reader(header, version).shape()


class _Reader:
    """The keys of one version."""

    def __init__(self, header: Header, version: int) -> None:
        self.header, self.is_first = header, version == 1

    def shape(self) -> GateShape:
        variant = self.choice("variant", TRAINED_VARIANTS if self.is_first else VARIANTS)
        has_activation, is_kvzip = variant in (RG10, RG), variant == FAST_KVZIP
        tied = has_activation and self.header.require(f"{PREFIX}.tied", BOOL)
        activations = _VERSION_1_ACTIVATIONS if self.is_first else ACTIVATIONS
        block_count = self.size("block_count", MAX_LAYERS)
        indices, heads = self.layers(block_count)
        shape = GateShape(
            variant=variant,
            tied=tied,
            activation=self.choice("activation", activations) if has_activation else ACTIVATIONS[0],
            score_kind=DECAY if self.is_first else self.choice("score", SCORE_KINDS),
            window=0 if self.is_first else self.window(),
            indices=indices,
            heads=heads,
            block_count=block_count,
            n_embd=self.size("embedding_length", MAX_WIDTH),
            n_ff=self.size("feed_forward_length", MAX_FF) if has_activation else 0,
            n_key=self.size("key_length", MAX_PART) if is_kvzip else 0,
            n_base=self.size("base_count", MAX_PART) if is_kvzip else 0,
            n_group=self.size("group_count", MAX_PART) if is_kvzip else 0,
        )
        self.check(shape)
        return shape

    def check(self, shape: GateShape) -> None:
        path = self.header.path
        if shape.tied and shape.variant != RG10:
            raise GateFileError(f"{path}: gates of variant {shape.variant} cannot be tied")
        if shape.tied and len(set(shape.heads)) > 1:
            raise GateFileError(f"{path}: tied gates need the same number of KV heads in every layer")
        if (shape.variant == RG10 and shape.score_kind == STATIC) or (
            shape.variant == FAST_KVZIP and shape.score_kind == DECAY
        ):
            raise GateFileError(f"{path}: gates of variant {shape.variant} have no {shape.score_kind} scores")

    def layers(self, block_count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The layers with gates, and the KV heads of each."""
        if self.is_first:
            return tuple(range(block_count)), (self.size("head_count_kv", MAX_WIDTH),) * block_count
        path, indices, heads = self.header.path, self.counts("layers"), self.counts("head_count_kv")
        if not indices or len(indices) != len(heads):
            raise GateFileError(f"{path}: names {len(indices)} layers and the KV heads of {len(heads)}")
        if list(indices) != sorted(set(indices)) or indices[-1] >= block_count:
            raise GateFileError(f"{path}: its layers are not ascending, or not among the {block_count} of the model")
        if min(heads) < 1 or max(heads) > MAX_WIDTH:
            raise GateFileError(f"{path}: head_count_kv is out of range (1 to {MAX_WIDTH})")
        return indices, heads

    def counts(self, key: str) -> tuple[int, ...]:
        field = self.header.fields.get(f"{PREFIX}.{key}")
        if field is None:
            raise GateFileError(f"{self.header.path}: metadata key '{PREFIX}.{key}' is missing")
        if field.type != U32 or not field.is_array:
            raise GateFileError(f"{self.header.path}: metadata key '{PREFIX}.{key}' has the wrong type")
        return tuple(np.asarray(field.value).tolist())

    def window(self) -> int:
        value = self.header.get(f"{PREFIX}.window", U32, 0)
        if value > MAX_WINDOW:
            raise GateFileError(f"{self.header.path}: window {value} is out of range (0 to {MAX_WINDOW})")
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.header.require(f"{PREFIX}.{key}", STRING)
        if value not in choices:
            raise GateFileError(f"{self.header.path}: {key} '{value}' is not one of {', '.join(choices)}")
        return value

    def size(self, key: str, largest: int) -> int:
        value = self.header.require(f"{PREFIX}.{key}", U32)
        if not 1 <= value <= largest:
            raise GateFileError(f"{self.header.path}: {key} {value} is out of range (1 to {largest})")
        return value
