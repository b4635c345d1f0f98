"""Read the header of a GGUF file, trusting none of it.

A sidecar or a model can come from anywhere, so every count and offset is checked against the bytes that are really
there before it is used; a damaged file is one clear error and never a long loop or a large allocation.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RetainError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_DIMS = 4
MAX_ALIGNMENT = 1 << 20

STRING, ARRAY = 8, 9
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
U32, BOOL = 4, 7


class GateFileError(RetainError):
    """A gate sidecar, or the GGUF of its base model, cannot be used; the message is one line and names the file."""


@dataclass(frozen=True)
class Field:
    """One metadata value: its GGUF type (of the elements, for an array) and the value in Python.

    Strings are kept as bytes: a vocabulary may hold pieces that are not valid UTF-8.
    """

    type: int
    value: Any
    is_array: bool = False


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: shape in ggml order (ne0 first), ggml type, and offset of its data from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


@dataclass(frozen=True)
class Header:
    """All metadata and tensor infos of a GGUF file, and the file's size in bytes."""

    path: Path
    size: int
    fields: dict[str, Field]
    tensors: dict[str, TensorInfo]

    def get(self, key: str, type: int, default: Any = None) -> Any:
        """Return a scalar or string value, or `default` when absent; GateFileError when it has another type."""
        field = self.fields.get(key)
        if field is None:
            return default
        if field.type != type or field.is_array:
            raise GateFileError(f"{self.path}: metadata key '{key}' has the wrong type")
        if type != STRING:
            return field.value
        try:
            return field.value.decode("utf-8")
        except UnicodeDecodeError:
            raise GateFileError(f"{self.path}: metadata key '{key}' is not valid UTF-8") from None

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

    def text(self) -> str:
        try:
            return self.string().decode("utf-8")
        except UnicodeDecodeError:
            raise GateFileError(f"{self.path}: a name in the file is not valid UTF-8") from None

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
            return Field(type, [self.string() for _ in range(self.count(8))], is_array=True)
        if type not in SCALARS:
            raise GateFileError(f"{self.path}: unknown array type {type} at byte {self.at}")
        dtype = np.dtype(SCALARS[type])
        values = np.frombuffer(self.take(self.count(dtype.itemsize) * dtype.itemsize), dtype)
        return Field(type, values.tolist(), is_array=True)

    def tensor(self) -> TensorInfo:
        name, n_dims = self.text(), self.scalar("<I")
        if not 1 <= n_dims <= MAX_DIMS:
            raise GateFileError(f"{self.path}: tensor '{name}' has {n_dims} dimensions")
        shape = tuple(self.scalar("<Q") for _ in range(n_dims))
        return TensorInfo(name, shape, self.scalar("<I"), self.scalar("<Q"))


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read the metadata and tensor infos of a GGUF file.

    Parameters
    ----------
    path : path of a GGUF file, version 2 or 3, little endian.

    Returns
    -------
    Header, whose tensor offsets count from the start of the file (not yet checked against its size: that needs the
    types, which only the caller knows).

    Raises
    ------
    GateFileError : no such file, not a GGUF, another version, truncated, damaged, or a name given twice.
    """
    path = Path(path)
    try:
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
    n_tensors, n_fields = cursor.count(24), cursor.count(13)

    fields: dict[str, Field] = {}
    for _ in range(n_fields):
        key = cursor.text()
        if key in fields:
            raise GateFileError(f"{path}: metadata key '{key}' is given twice")
        fields[key] = cursor.field()
    infos = [cursor.tensor() for _ in range(n_tensors)]

    header = Header(path, len(cursor.data), fields, {})
    alignment = header.get("general.alignment", U32, 32)
    if not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise GateFileError(f"{path}: general.alignment is {alignment}, not a power of two")
    start = -(-cursor.at // alignment) * alignment
    for info in infos:
        if info.name in header.tensors:
            raise GateFileError(f"{path}: tensor '{info.name}' is given twice")
        if info.offset % alignment:
            raise GateFileError(f"{path}: tensor '{info.name}' is not aligned to {alignment} bytes")
        header.tensors[info.name] = TensorInfo(info.name, info.shape, info.type, start + info.offset)
    return header
