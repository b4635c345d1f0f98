"""Read the header of a GGUF file, trusting none of it.

A sidecar or a model can come from anywhere, so every count and offset is checked against the bytes that are really
there before it is used; a damaged file is one clear error and never a long loop or a large allocation. What ggml reads is
read here, and what ggml refuses is refused: the list of it is in docs/gate-sidecar.md.
"""

from __future__ import annotations

import math
import mmap
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RetainError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_DIMS, MAX_NAME = 4, 63

STRING, ARRAY = 8, 9
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
U16, U32, BOOL = 2, 4, 7
_INT64 = 1 << 63

# numbers in a block of each ggml type, and bytes of the block
GGML_TYPES = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66),
    17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54),
    35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18), 42: (64, 18),
}  # fmt: skip


class GateFileError(RetainError):
    """A gate sidecar, or the GGUF of its base model, cannot be used; the message is one line and names the file."""


@dataclass(frozen=True)
class Field:
    """One metadata value: its GGUF type (of the elements, for an array) and the value in Python.

    Strings are kept as bytes: a vocabulary may hold pieces that are not valid UTF-8. An array is a list of them, or a
    NumPy array of numbers.
    """

    type: int
    value: Any
    is_array: bool = False


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: shape in ggml order (ne0 first), ggml type, place of its data in the file and their number of bytes."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    n_bytes: int

    def has_shape(self, *shape: int) -> bool:
        """Whether this is the tensor's shape; dimensions that are not given are 1."""
        rest = (1,) * MAX_DIMS
        return (*self.shape, *rest)[:MAX_DIMS] == (*shape, *rest)[:MAX_DIMS]


@dataclass(frozen=True)
class Header:
    """All metadata and tensor infos of a GGUF file.

    size : bytes of the file.
    end : first byte behind the data of all tensors, the padding of the last one included; never beyond the file but for
        that padding.
    """

    path: Path
    size: int
    fields: dict[str, Field]
    tensors: dict[str, TensorInfo]
    end: int

    def get(self, key: str, type: int, default: Any = None) -> Any:
        """Return a scalar or string value, or `default` when absent; GateFileError when it has another type.

        A string ends at its first NUL, and what is not UTF-8 in it becomes a replacement character.
        """
        field = self.fields.get(key)
        if field is None:
            return default
        if field.type != type or field.is_array:
            raise GateFileError(f"{self.path}: metadata key '{key}' has the wrong type")
        return field.value if type != STRING else text(field.value)

    def require(self, key: str, type: int) -> Any:
        """Like `get`, and GateFileError when the key is absent."""
        value = self.get(key, type)
        if value is None:
            raise GateFileError(f"{self.path}: metadata key '{key}' is missing")
        return value


class _Cursor:
    """A position in the file's bytes that refuses to move past their end."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    def take(self, n: int) -> bytes:
        if n > len(self.data) - self.at:
            raise GateFileError(f"{self.path}: the file is truncated or damaged at byte {self.at}")
        self.at += n
        return self.data[self.at - n : self.at]

    def scalar(self, fmt: str) -> Any:
        return struct.unpack(fmt, self.take(struct.calcsize(fmt)))[0]

    def count(self, min_bytes: int) -> int:
        """A count of items that each take at least `min_bytes` bytes of the rest of the file."""
        n = self.scalar("<Q")
        if n > (len(self.data) - self.at) // min_bytes:
            raise GateFileError(f"{self.path}: the file is truncated or damaged at byte {self.at - 8}")
        return n

    def string(self) -> bytes:
        return self.take(self.count(1))

    def strings(self, n: int) -> list[bytes]:
        """As `string`, n times, in a third of the time: a vocabulary has hundreds of thousands."""
        data, at, end, found = self.data, self.at, len(self.data), []
        for _ in range(n):
            start = at + 8
            at = start + int.from_bytes(data[at:start], "little")
            if at > end or start > end:
                raise GateFileError(f"{self.path}: the file is truncated or damaged at byte {start - 8}")
            found.append(data[start:at])
        self.at = at
        return found

    def value(self, type: int) -> Any:
        if type == STRING:
            return self.string()
        if type in SCALARS:
            return self.scalar(SCALARS[type])
        raise GateFileError(f"{self.path}: unknown metadata type {type} at byte {self.at}")

    def field(self) -> Field:
        type = self.scalar("<I")
        if type != ARRAY:
            return Field(type, self.value(type))
        type = self.scalar("<I")
        if type == STRING:
            return Field(type, self.strings(self.count(8)), is_array=True)
        if type not in SCALARS:
            raise GateFileError(f"{self.path}: unknown array type {type} at byte {self.at}")
        dtype = np.dtype(SCALARS[type])
        values = np.frombuffer(self.take(self.count(dtype.itemsize) * dtype.itemsize), dtype)
        return Field(type, values, is_array=True)

    def tensor(self) -> tuple[bytes, tuple[int, ...], int, int, int]:
        """Name, shape, type, offset among the data, and number of bytes."""
        name, n_dims = self.string(), self.scalar("<I")
        shown = text(name[: MAX_NAME + 1])
        if len(name) > MAX_NAME:
            raise GateFileError(f"{self.path}: the name of tensor '{shown}...' is too long")
        if n_dims > MAX_DIMS:
            raise GateFileError(f"{self.path}: tensor '{shown}' has {n_dims} dimensions")
        shape = tuple(self.scalar("<Q") for _ in range(n_dims))
        type, offset = self.scalar("<I"), self.scalar("<Q")
        if type not in GGML_TYPES:
            raise GateFileError(f"{self.path}: tensor '{shown}' has a type, {type}, that this program does not know")
        block, n_block = GGML_TYPES[type]
        row = shape[0] if shape else 1
        if max((*shape, math.prod(n or 1 for n in shape))) >= _INT64 or row % block:
            raise GateFileError(f"{self.path}: tensor '{shown}' cannot have shape {list(shape)}")
        return name, shape, type, offset, math.prod(shape) // block * n_block


def text(raw: bytes) -> str:
    """A text of a file as llama.cpp takes it, up to its first NUL; for one that is not UTF-8, what can be shown of it."""
    return raw.split(b"\0", 1)[0].decode("utf-8", errors="replace")


def _key(raw: bytes) -> str:
    """A key or name: as `text`, but different bytes stay different."""
    return raw.split(b"\0", 1)[0].decode("utf-8", errors="surrogateescape")


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read the metadata and tensor infos of a GGUF file.

    Parameters
    ----------
    path : path of a GGUF file, version 2 or 3, little endian.

    Returns
    -------
    Header, whose tensors lie within the file, one behind the other.

    Raises
    ------
    GateFileError : no such file, not a GGUF, another version, truncated, damaged, or a name given twice.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
            raise GateFileError(f"{path}: not an ordinary file")  # to open a pipe would wait for ever
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(_Cursor(data, path))
    except ValueError:  # mmap refuses an empty file
        raise GateFileError(f"{path}: not a GGUF file") from None
    except OSError as error:
        raise GateFileError(f"{path}: {error.strerror or error}") from None


def _parse(cursor: _Cursor) -> Header:
    path = cursor.path
    if cursor.data[: len(MAGIC)] != MAGIC:
        raise GateFileError(f"{path}: not a GGUF file")
    cursor.take(len(MAGIC))
    version = cursor.scalar("<I")
    if version not in VERSIONS:
        raise GateFileError(f"{path}: GGUF version {version} is not supported")
    n_tensors, n_fields = cursor.count(24), cursor.count(14)
    fields = _fields(cursor, n_fields)
    infos = [cursor.tensor() for _ in range(n_tensors)]

    field = fields.get("general.alignment", Field(U32, 32))
    if field.type != U32 or field.is_array or field.value.bit_count() != 1:
        raise GateFileError(f"{path}: general.alignment is not a power of two")
    alignment = field.value
    at = -(-cursor.at // alignment) * alignment if infos else cursor.at
    tensors: dict[str, TensorInfo] = {}
    start = at
    for raw, shape, type, offset, n_bytes in infos:
        name = _key(raw)
        if name in tensors:
            raise GateFileError(f"{path}: tensor '{text(raw)}' is given twice")
        if start + offset != at:
            raise GateFileError(f"{path}: tensor '{text(raw)}' is not where the one before it ends")
        if at + n_bytes > len(cursor.data):
            raise GateFileError(f"{path}: the file is truncated: tensor '{text(raw)}' ends beyond it")
        tensors[name] = TensorInfo(name, shape, type, at, n_bytes)
        at += -(-n_bytes // alignment) * alignment
    return Header(path, len(cursor.data), fields, tensors, at)


def _fields(cursor: _Cursor, n: int) -> dict[str, Field]:
    """The metadata; of keys that are equal up to a NUL, which ends a text for llama.cpp, the first counts."""
    fields: dict[str, Field] = {}
    seen: set[bytes] = set()
    for _ in range(n):
        raw = cursor.string()
        if not raw or raw in seen:
            problem = f"'{text(raw)}' is given twice" if raw else "is empty"
            raise GateFileError(f"{cursor.path}: metadata key {problem}")
        seen.add(raw)
        fields.setdefault(_key(raw), cursor.field())
    return fields
