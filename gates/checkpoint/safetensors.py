"""Reading the headers of safetensors files, trusting none of them.

The safetensors package has no bfloat16 without torch. A file is eight bytes of length, a JSON header that names types,
shapes and places, and the numbers; whatever the header says is checked against the file before it is used.
"""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from typing import Any

from .layout import CheckpointError, is_gate_tensor
from .tensor import DTYPES, MAX_DIMS, StoredTensor, row_major

MAX_HEADER = 1 << 24

_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by name.

    Raises
    ------
    CheckpointError : the file cannot be read, is not safetensors, truncated, or damaged.
    """
    size, start, header = _read_header(path)
    try:
        tensors, ends = {}, [0]
        for name, (begin, end) in sorted(_places(header).items(), key=lambda item: item[1]):
            if begin != ends[-1] or end < begin:
                raise ValueError(f"tensor '{name[:80]}' is not where the one before it ends")
            ends.append(end)
            tensors[name] = _tensor(path, header[name], start + begin, end - begin)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: the header is damaged ({error})") from None
    if start + ends[-1] != size:
        problem = "truncated" if start + ends[-1] > size else "damaged"
        raise CheckpointError(f"{path}: the file is {problem}: {size} bytes where {start + ends[-1]} are named")
    return tensors


def read_shards(index: Path) -> dict[str, StoredTensor]:
    """The tensors of gates, and what lies beside them, in the files that an index (`*.safetensors.index.json`) names.

    Raises
    ------
    CheckpointError : as `shard_files`, or one of the files cannot be used.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in shard_files(index):
        found = read_safetensors(index.with_name(file))
        if twice := found.keys() & tensors.keys():
            raise CheckpointError(f"{index}: tensor '{min(twice)[:120]}' is in two of its files")
        tensors |= found
    return tensors


def shard_files(index: Path) -> list[str]:
    """The files with tensors of gates that an index names.

    Raises
    ------
    CheckpointError : the index is damaged, names no gates, or a file outside its folder.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"{index}: the index names no files")
    files = sorted({file for name, file in weight_map.items() if is_gate_tensor(name)})
    if not files:
        raise CheckpointError(f"{index}: no retention gates in this checkpoint")
    for file in files:
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(f"{index}: '{file[:80]}' is no safetensors file in the same folder")
    return files


def check_ordinary(path: Path) -> None:
    """Raise CheckpointError for a pipe or a device, which may never end; a file that is not there is left to its reader."""
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path}: not an ordinary file")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file whose value is an object; CheckpointError when it is none, cannot be read, or is far too large."""
    try:
        if path.stat().st_size > MAX_HEADER:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes are too many for this file")
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: not a JSON file") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return value


def _read_header(path: Path) -> tuple[int, int, dict[str, Any]]:
    """Size of the file, first byte of the numbers, and the header."""
    check_ordinary(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))[0]
            if length > min(MAX_HEADER, size - 8):
                raise CheckpointError(f"{path}: not a safetensors file, or a truncated one")
            header = json.loads(file.read(length), object_pairs_hook=_unique)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: not a safetensors file, or a damaged one") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: not a safetensors file")
    header.pop("__metadata__", None)
    return size, 8 + length, header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _places(header: dict[str, Any]) -> dict[str, tuple[int, int]]:
    places = {name: tuple(entry["data_offsets"]) for name, entry in header.items()}
    if any(len(place) != 2 or any(type(at) is not int for at in place) for place in places.values()):
        raise ValueError("data_offsets are not two numbers")
    return places


def _tensor(path: Path, entry: dict[str, Any], start: int, n_bytes: int) -> StoredTensor:
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    if not isinstance(dtype, str) or len(shape) > MAX_DIMS or any(type(n) is not int for n in shape):
        raise ValueError(f"a tensor has shape {list(shape)[:MAX_DIMS]}")
    dtype = _DTYPES.get(dtype, dtype)  # one that we do not know may be of a tensor that is no gate's
    n_stored, rest = divmod(n_bytes, int(DTYPES[dtype][1])) if dtype in DTYPES else (math.prod(shape), 0)
    tensor = StoredTensor(path, start, n_stored, dtype, shape, row_major(shape))
    if rest or tensor.size != n_stored:
        raise ValueError(f"{n_bytes} bytes for a tensor of shape {list(shape)}")
    return tensor
