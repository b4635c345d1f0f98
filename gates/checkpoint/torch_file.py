"""Reading what `torch.save` wrote, without torch and without running anything that is in the file.

The file is a zip archive: `data.pkl`, a pickle of the names, types, shapes and strides, and `data/0`, `data/1`, ...,
the numbers. The archive's members are stored and not compressed, so nothing in it is larger than the file.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .layout import CheckpointError
from .tensor import DTYPES, StoredTensor
from .unpickle import MAX_BYTES, Global, UnpickleError, unpickle

MAX_DIRECTORY = 1 << 24  # bytes of the list of members
MAX_ITEMS, MAX_DEPTH = 1 << 20, 4  # of the dicts and lists that hold the tensors
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 1
_BAD_ZIP = (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error)  # what zipfile makes of damage

_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip


def read_torch(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a state dict that `torch.save` wrote, by name; what else the dict holds is left out.

    Those of dicts and lists in it are named after their way there: `module.3.weight` for `{"module": [..., {"weight": ...}]}`.

    Raises
    ------
    CheckpointError : the file cannot be read, is none of torch's or of its format before torch 1.6, truncated or
        damaged, or asks for anything but tensors.
    """
    try:
        with open(path, "rb") as file, zipfile.ZipFile(_Bounded(file)) as archive:
            found = _Archive(path, file, archive).unpickle()
    except UnpickleError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except _BAD_ZIP:
        raise CheckpointError(f"{path}: {_what_instead(path)}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: not a state dict")
    try:
        return dict(_named_tensors(found))
    except UnpickleError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _named_tensors(found: dict[str, Any]) -> Iterator[tuple[str, StoredTensor]]:
    """The tensors in nested dicts and lists; UnpickleError where these are too deep or too many, or hold themselves."""
    waiting: list[tuple[str, Any, int]] = [("", found, 0)]
    n_seen = 0
    while waiting:
        prefix, container, depth = waiting.pop()
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in items:
            n_seen += 1
            if n_seen > MAX_ITEMS:
                raise UnpickleError(f"it holds more than {MAX_ITEMS:,} things")
            if isinstance(value, StoredTensor):
                yield f"{prefix}{key}", value
            elif isinstance(value, (dict, list)) and value:
                if depth >= MAX_DEPTH:
                    raise UnpickleError(f"it holds dicts and lists deeper than {MAX_DEPTH}")
                waiting.append((f"{prefix}{key}.", value, depth + 1))


class _Bounded(io.RawIOBase):
    """A file for `zipfile`, which takes the archive's word for how much to read at once."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file

    def seekable(self) -> bool:
        return True

    def seek(self, *place: int) -> int:
        return self._file.seek(*place)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, n: int = -1) -> bytes:
        data = self._file.read(MAX_DIRECTORY + 1 if n < 0 else min(n, MAX_DIRECTORY + 1))
        if len(data) > MAX_DIRECTORY:
            raise zipfile.BadZipFile
        return data


@dataclass(frozen=True)
class _Storage:
    """A run of stored numbers of one type."""

    dtype: str
    start: int
    n: int


class _Archive:
    """The members of a file of torch's, and the pickle in it."""

    def __init__(self, path: Path, file: io.BufferedReader, archive: zipfile.ZipFile) -> None:
        self.path, self.file = path, file
        self.size = file.seek(0, io.SEEK_END)
        self.members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in self.members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise UnpickleError("a zip archive, but not one of torch's")
        self.folder = pickles[0].removesuffix("data.pkl")
        self.order = "<"
        if self.folder + "byteorder" in self.members:
            self.order = ">" if self.read("byteorder", 16) == b"big" else "<"
        self.allowed = {
            "collections.OrderedDict": Global("OrderedDict", _ordered_dict),
            "torch._utils._rebuild_tensor_v2": Global("_rebuild_tensor_v2", self.rebuild_tensor),
            "torch._utils._rebuild_parameter": Global("_rebuild_parameter", _rebuild_parameter),
            **{f"torch.{name}": Global(name) for name in _STORAGES},
            **_NUMPY,
        }

    def unpickle(self) -> Any:
        return unpickle(self.read("data.pkl", MAX_BYTES), self.allowed, self.storage)

    def place(self, name: str) -> tuple[int, int]:
        """First byte and number of bytes of a member."""
        info = self.members.get(self.folder + name)
        if info is None:
            raise UnpickleError(f"the file is damaged: '{name}' is missing in it")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & _ENCRYPTED or info.file_size < 0:
            raise UnpickleError(f"'{name}' in it is compressed or encrypted, which torch never does")
        self.file.seek(info.header_offset)
        header = self.file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
            raise UnpickleError(f"the file is damaged: '{name}' is not where it should be")
        _, n_name, n_extra = _LOCAL_HEADER.unpack(header)
        start = info.header_offset + _LOCAL_HEADER.size + n_name + n_extra
        if start + info.file_size > self.size:
            raise UnpickleError(f"the file is truncated: '{name}' ends beyond it")
        return start, info.file_size

    def read(self, name: str, most: int) -> bytes:
        """The bytes of a member, one more than `most` where there are more."""
        start, n_bytes = self.place(name)
        self.file.seek(start)
        return self.file.read(min(n_bytes, most + 1))

    # what the pickle may ask for: every argument comes from the file

    def storage(self, pid: Any) -> _Storage:
        if type(pid) is not tuple or len(pid) != 5 or type(pid[1]) is not Global or pid[1].name not in _STORAGES:
            raise UnpickleError("the file is damaged: a storage is not described as torch does")
        kind, _, key, _, n = pid
        if kind != "storage" or type(key) is not str or not _are_counts(n):
            raise UnpickleError("the file is damaged: a storage is not described as torch does")
        dtype = _STORAGES[pid[1].name]
        start, n_bytes = self.place(f"data/{key[:40]}")
        if n * int(DTYPES[dtype][1]) > n_bytes:
            raise UnpickleError(f"the file is truncated: 'data/{key[:40]}' has {n_bytes} bytes for {n} numbers")
        return _Storage(dtype, start, n)

    def rebuild_tensor(self, storage: Any = None, offset: Any = None, shape: Any = None, strides: Any = None, *_: Any):
        are_places = type(shape) is type(strides) is tuple and _are_counts(offset, *shape, *strides)
        if type(storage) is not _Storage or not are_places:
            raise UnpickleError("the file is damaged: a tensor is not described as torch does")
        return StoredTensor(self.path, storage.start, storage.n, storage.dtype, shape, strides, offset, self.order)


def _ordered_dict(*_: Any) -> dict[str, Any]:
    return {}


# NumPy arrays, which a checkpoint may have beside its tensors (the course of its loss), are left out: nothing is built
_NUMPY = {
    "numpy.ndarray": Global("ndarray"),
    "numpy.dtype": Global("dtype", _ordered_dict),
    "_codecs.encode": Global("encode", _ordered_dict),  # how pickle writes bytes
    "numpy.core.multiarray._reconstruct": Global("_reconstruct", _ordered_dict),
    "numpy._core.multiarray._reconstruct": Global("_reconstruct", _ordered_dict),
}


def _rebuild_parameter(data: Any = None, *_: Any) -> Any:
    return data


def _are_counts(*values: Any) -> bool:
    return all(type(value) is int and value >= 0 for value in values)


def _what_instead(path: Path) -> str:
    """What a file is that is no zip archive."""
    with open(path, "rb") as file:
        start = file.read(4)
    if start[:1] == b"\x80":
        return (
            "written in torch's format from before version 1.6, which is not read; convert it where torch is installed:"
            " torch.save(torch.load(old, weights_only=True), new)"
        )
    if start == b"PK\3\4":
        return "the file is truncated or damaged: the list of members at its end is not there"
    return "not a file that torch.save writes"
