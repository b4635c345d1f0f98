"""Gate sidecars: the GGUF file beside a model that holds its gates.

The file is an adapter of type `retention_gate` (stock llama.cpp never looks at it). `write_sidecar` makes one from
NumPy arrays and `read_sidecar` gives back exactly what the native loader would use; both check every name, shape, type
and number.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize, quantize

from ...errors import RetainError, UsageError
from ...files import check_writable, replaced
from ...models.gguf_header import GateFileError, Header, TensorInfo, read_header
from .gate_set import GateSet
from .metadata import GateInfo, GateShape, add_metadata, read_info, read_shape
from .parts import KVzipGate, LayerGate, Linear
from .variants import FAST_KVZIP, LINEAR, RG10

_GGML = gguf.GGMLQuantizationType
WEIGHT_TYPES = {"f32": _GGML.F32, "f16": _GGML.F16, "q8_0": _GGML.Q8_0}
Q8_0_BLOCK, Q8_0_BYTES = gguf.GGML_QUANT_SIZES[_GGML.Q8_0]

# the matrices; what else there is are a few numbers a layer, which stay f32
_MATRICES = (
    "retention_in.weight",
    "retention_mid.weight",
    "retention_score.weight",
    "retention_q.weight",
    "retention_k.weight",
)


def _is_matrix(name: str) -> bool:
    return name.endswith(_MATRICES)


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


def check_out(out: Path, force: bool, model: Path | None = None) -> None:
    """Find out before anything is read or fetched whether a sidecar may be written.

    Parameters
    ----------
    force : replace a file that is there.
    model : the base model, which is never replaced; None: not known.

    Raises
    ------
    UsageError : it is the model, or cannot be written.
    RetainError : it is there, and is not to be replaced.
    """
    if model is not None and out.exists() and model.exists() and out.samefile(model):
        raise UsageError(f"{out} is the base model, which would be lost; name another file for the sidecar")
    check_writable(out)
    if out.exists() and not force:
        raise RetainError(f"{out} is there already; --force replaces it")


def write_sidecar(path: str | os.PathLike[str], gates: GateSet, info: GateInfo, weight_type: str = "f16") -> Sidecar:
    """Write gates to a sidecar file, all or nothing, and read it back.

    Parameters
    ----------
    path : the file to make; an existing one is replaced only after the new one was written and read back.
    gates : float arrays of any precision; matrices are stored as `weight_type`, biases and norms as f32.
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
    add_metadata(writer, gates, info)
    for name, array in gates.tensors():
        _add_tensor(writer, name, array, WEIGHT_TYPES[weight_type if _is_matrix(name) else "f32"])

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
    shape = read_shape(header)
    loader = _TensorLoader(header)
    layers = tuple(loader.layer(shape, il, n_head) for il, n_head in zip(shape.indices, shape.heads))
    score = loader.linear("retention_score", shape.heads[0], shape.n_ff) if shape.tied else None
    for name in header.tensors:
        if name not in loader.types:
            raise GateFileError(f"{path}: unexpected tensor '{name}'")

    if header.end > header.size:
        raise GateFileError(f"{path}: the file is truncated: its last tensor is not padded")
    gates = GateSet(layers, score, shape.activation, shape.score_kind, shape.window, shape.indices, shape.block_count)
    return Sidecar(read_info(header), gates, loader.types, header.size)


class _TensorLoader:
    """Reads the tensors that the metadata calls for, and notes their types."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.types: dict[str, str] = {}

    def layer(self, shape: GateShape, il: int, n_head: int) -> LayerGate | KVzipGate:
        """The gate of the model's layer `il`, which has `n_head` KV heads."""
        blk = f"blk.{il}.retention"
        if shape.variant == FAST_KVZIP:
            n_key = shape.n_key
            return KVzipGate(
                q=self.linear(f"{blk}_q", n_head * shape.n_group * n_key, shape.n_embd),
                k=self._load(f"{blk}_k.weight", (shape.n_embd, n_head * n_key)),
                q_norm=self._load(f"{blk}_q_norm.weight", (n_key,)),
                k_norm=self._load(f"{blk}_k_norm.weight", (n_key,)),
                base=self._load(f"{blk}_base.weight", (n_key, n_head * shape.n_base)),
                bias=self._load(f"{blk}_score.bias", (n_head * shape.n_group,)),
            )
        if shape.variant == LINEAR:
            return LayerGate(score=self.linear(f"{blk}_score", n_head, shape.n_embd))
        return LayerGate(
            self.linear(f"{blk}_in", shape.n_ff, shape.n_embd),
            self.linear(f"{blk}_mid", shape.n_ff, shape.n_ff) if shape.variant == RG10 else None,
            None if shape.tied else self.linear(f"{blk}_score", n_head, shape.n_ff),
        )

    def linear(self, name: str, n_out: int, n_in: int) -> Linear:
        return Linear(self._load(f"{name}.weight", (n_in, n_out)), self._load(f"{name}.bias", (n_out,)))

    def _load(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A tensor's numbers, [n_out, n_in] or [n]; `shape` is in ggml's order."""
        path = self.header.path
        allowed = WEIGHT_TYPES if _is_matrix(name) else {"f32": _GGML.F32}
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
