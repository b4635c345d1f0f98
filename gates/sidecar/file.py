"""Gate sidecars: the GGUF file beside a model that holds its gates.

The file is an adapter of type `retention_gate` (stock llama.cpp never looks at it). `write_sidecar` makes one from
NumPy arrays and `read_sidecar` gives back exactly what the native loader would use; both check every name, shape, type
and number.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize, quantize

from ...errors import RetainError
from ...files import replaced
from ...models.gguf_header import BOOL, STRING, U32, GateFileError, Header, TensorInfo, read_header
from .gate_set import ACTIVATIONS, GateSet, LayerGate, Linear
from .variants import RG10, VARIANTS

VERSION = 1
PREFIX = "retention_gate"

_GGML = gguf.GGMLQuantizationType
WEIGHT_TYPES = {"f32": _GGML.F32, "f16": _GGML.F16, "q8_0": _GGML.Q8_0}
Q8_0_BLOCK, Q8_0_BYTES = gguf.GGML_QUANT_SIZES[_GGML.Q8_0]

# No real gate comes near these: counts beyond them are damage, not models.
MAX_LAYERS, MAX_WIDTH, MAX_FF = 1024, 1 << 20, 1 << 16


@dataclass(frozen=True)
class GateInfo:
    """What a sidecar says about its gates, beside the numbers.

    architecture : of the base model, as in its own GGUF (`llama`, `qwen3`, ...).
    name : of the gates.
    trained_budget, trained_context_length : M and tokens in training, or None.
    base_name : of the base model.
    base_fingerprint : `base_fingerprint()` of it; a sidecar without one is not tied to a vocabulary.
    source, license : where the gates come from, and their licence.
    """

    architecture: str
    name: str = "retention gates"
    trained_budget: int | None = None
    trained_context_length: int | None = None
    base_name: str | None = None
    base_fingerprint: str | None = None
    source: str | None = None
    license: str | None = None


# metadata key, GGUF type and GateInfo field of what may be absent
_OPTIONAL = (
    ("general.name", STRING, "name"),
    (f"{PREFIX}.trained_budget", U32, "trained_budget"),
    (f"{PREFIX}.trained_context_length", U32, "trained_context_length"),
    (f"{PREFIX}.base_name", STRING, "base_name"),
    (f"{PREFIX}.base_fingerprint", STRING, "base_fingerprint"),
    (f"{PREFIX}.source", STRING, "source"),
    ("general.license", STRING, "license"),
)


@dataclass(frozen=True)
class Sidecar:
    """A sidecar that was read and checked.

    info : what it says about itself.
    gates : its numbers, dequantised to float32.
    types : the type of each tensor in the file, by name: f32, f16 or q8_0.
    n_bytes : size of the file.
    """

    info: GateInfo
    gates: GateSet
    types: dict[str, str]
    n_bytes: int


def write_sidecar(path: str | os.PathLike[str], gates: GateSet, info: GateInfo, weight_type: str = "f16") -> Sidecar:
    """Write gates to a sidecar file, all or nothing, and read it back.

    Parameters
    ----------
    path : the file to make; an existing one is replaced only after the new one was written and read back.
    gates : float arrays of any precision; stored as `weight_type`, biases as f32.
    info : what the file says about them.
    weight_type : f32, f16 or q8_0.

    Returns
    -------
    Sidecar : what is in the file, so the weights as rounded to `weight_type`.

    Raises
    ------
    GateFileError : gates that are not consistent (`GateSet.checked`), rows that q8_0 cannot hold, numbers too large
        for the type, or a file that cannot be written.
    """
    path = Path(path)
    gates = gates.checked()
    if weight_type not in WEIGHT_TYPES:
        raise GateFileError(f"weight type '{weight_type}' is not one of {', '.join(WEIGHT_TYPES)}")
    if not info.architecture:
        raise GateFileError("a sidecar needs the architecture of its base model")
    writer = gguf.GGUFWriter(None, info.architecture)
    _add_metadata(writer, gates, info)
    for name, array in gates.tensors():
        _add_tensor(writer, name, array, WEIGHT_TYPES["f32" if name.endswith(".bias") else weight_type])

    try:
        with replaced(path) as file:
            writer.write_header_to_file(Path(file.name))
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            return read_sidecar(file.name)
    except GateFileError:
        raise
    except RetainError as error:
        raise GateFileError(str(error)) from None


def _add_metadata(writer: gguf.GGUFWriter, gates: GateSet, info: GateInfo) -> None:
    writer.add_type("adapter")
    writer.add_string("adapter.type", PREFIX)
    writer.add_uint32(f"{PREFIX}.version", VERSION)
    writer.add_string(f"{PREFIX}.variant", gates.variant)
    writer.add_bool(f"{PREFIX}.tied", gates.tied)
    writer.add_uint32(f"{PREFIX}.block_count", gates.n_layer)
    writer.add_uint32(f"{PREFIX}.embedding_length", gates.n_embd)
    writer.add_uint32(f"{PREFIX}.feed_forward_length", gates.n_ff)
    writer.add_uint32(f"{PREFIX}.head_count_kv", gates.n_head_kv)
    writer.add_string(f"{PREFIX}.activation", gates.activation)
    for key, type, field in _OPTIONAL:
        value = getattr(info, field)
        if value is not None:
            (writer.add_uint32 if type == U32 else writer.add_string)(key, value)


def _add_tensor(writer: gguf.GGUFWriter, name: str, array: np.ndarray, type: gguf.GGMLQuantizationType) -> None:
    if type == _GGML.Q8_0 and array.shape[-1] % Q8_0_BLOCK:
        raise GateFileError(f"{name}: rows of {array.shape[-1]} cannot be q8_0, which needs a multiple of {Q8_0_BLOCK}")
    with np.errstate(over="ignore"):  # overflow becomes inf, which the next lines refuse
        data = quantize(array, type)
        restored = dequantize(data, type)
    if not np.isfinite(restored).all():
        raise GateFileError(f"{name}: numbers are too large for {type.name.lower()}")
    writer.add_tensor(name, data, raw_dtype=type)


def read_sidecar(path: str | os.PathLike[str]) -> Sidecar:
    """Read a gate sidecar and check all of it.

    Raises
    ------
    GateFileError : the file is missing, damaged, not a retention gate, of a newer version, or any metadata value,
        tensor name, shape, type or number is not what it must be.
    """
    header = read_header(path)
    kind = header.get("general.type", STRING), header.get("adapter.type", STRING)
    if kind != ("adapter", PREFIX):
        raise GateFileError(f"{path}: not a gate sidecar")
    version = header.require(f"{PREFIX}.version", U32)
    if version != VERSION:
        raise GateFileError(f"{path}: sidecar version {version} is not supported (this program reads {VERSION})")

    variant = _choice(header, "variant", VARIANTS)
    activation = _choice(header, "activation", ACTIVATIONS)
    tied = header.require(f"{PREFIX}.tied", BOOL)
    if tied and variant != RG10:
        raise GateFileError(f"{path}: gates of variant {variant} cannot be tied")
    n_layer = _size(header, "block_count", MAX_LAYERS)
    n_embd = _size(header, "embedding_length", MAX_WIDTH)
    n_ff = _size(header, "feed_forward_length", MAX_FF)
    n_head_kv = _size(header, "head_count_kv", MAX_WIDTH)

    loader = _TensorLoader(header)
    layers = tuple(
        LayerGate(
            loader.linear(f"blk.{il}.retention_in", n_ff, n_embd),
            loader.linear(f"blk.{il}.retention_mid", n_ff, n_ff) if variant == RG10 else None,
            None if tied else loader.linear(f"blk.{il}.retention_score", n_head_kv, n_ff),
        )
        for il in range(n_layer)
    )
    score = loader.linear("retention_score", n_head_kv, n_ff) if tied else None
    for name in header.tensors:
        if name not in loader.types:
            raise GateFileError(f"{path}: unexpected tensor '{name}'")

    if header.end > header.size:
        raise GateFileError(f"{path}: the file is truncated: its last tensor is not padded")
    given = {field: header.require(key, type) for key, type, field in _OPTIONAL if key in header.fields}
    info = GateInfo(header.require("general.architecture", STRING), **given)
    if info.base_fingerprint is not None and not re.fullmatch("[0-9a-f]{16}", info.base_fingerprint):
        raise GateFileError(f"{path}: base_fingerprint '{info.base_fingerprint}' is not 16 hex digits")
    return Sidecar(info, GateSet(layers, score, activation), loader.types, header.size)


def _choice(header: Header, key: str, choices: tuple[str, ...]) -> str:
    value = header.require(f"{PREFIX}.{key}", STRING)
    if value not in choices:
        raise GateFileError(f"{header.path}: {key} '{value}' is not one of {', '.join(choices)}")
    return value


def _size(header: Header, key: str, largest: int) -> int:
    value = header.require(f"{PREFIX}.{key}", U32)
    if not 1 <= value <= largest:
        raise GateFileError(f"{header.path}: {key} {value} is out of range (1 to {largest})")
    return value


class _TensorLoader:
    """Reads the tensors that the metadata calls for, and notes their types."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.types: dict[str, str] = {}

    def linear(self, name: str, n_out: int, n_in: int) -> Linear:
        weight = self._load(f"{name}.weight", (n_in, n_out), WEIGHT_TYPES)
        bias = self._load(f"{name}.bias", (n_out,), {"f32": _GGML.F32})
        return Linear(weight, bias)

    def _load(self, name: str, shape: tuple[int, ...], allowed: dict[str, gguf.GGMLQuantizationType]) -> np.ndarray:
        path = self.header.path
        info = self.header.tensors.get(name)
        if info is None:
            raise GateFileError(f"{path}: tensor '{name}' is missing")
        if not info.has_shape(*shape):
            raise GateFileError(f"{path}: tensor '{name}' has shape {list(info.shape)}, expected {list(shape)}")
        type_name = next((key for key, type in allowed.items() if type == info.type), None)
        if type_name is None:
            raise GateFileError(f"{path}: tensor '{name}' has ggml type {info.type}, expected {' or '.join(allowed)}")
        with np.errstate(invalid="ignore"):  # a block whose scale is infinite has numbers that are none
            array = dequantize(self._rows(info, shape[0]), allowed[type_name]).astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            raise GateFileError(f"{path}: tensor '{name}' has numbers that are not finite")
        self.types[name] = type_name
        return array.reshape(shape[::-1])

    def _rows(self, info: TensorInfo, n_in: int) -> np.ndarray:
        """The tensor's data as it lies in the file: [n_out, numbers or bytes of a row]."""
        dtypes: dict[int, np.dtype] = {
            _GGML.F32: np.dtype("<f4"), _GGML.F16: np.dtype("<f2"), _GGML.Q8_0: np.dtype("u1")
        }  # fmt: skip
        dtype = dtypes[info.type]
        n_row = n_in // Q8_0_BLOCK * Q8_0_BYTES if info.type == _GGML.Q8_0 else n_in
        return np.fromfile(self.header.path, dtype, info.n_bytes // dtype.itemsize, offset=info.offset).reshape(
            -1, n_row
        )
