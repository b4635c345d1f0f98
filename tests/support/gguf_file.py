"""A GGUF file taken apart into plain lists and put together again, right or wrong: for mutations that know the format."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}


@dataclass
class Entry:
    """One metadata value: key, GGUF type (of the elements, for an array), value; strings are bytes."""

    key: bytes
    type: int
    value: Any
    is_array: bool = False


@dataclass
class Tensor:
    """One tensor: name, shape in ggml order, ggml type, and its bytes; `offset` overrides where they are said to be."""

    name: bytes
    shape: list[int]
    type: int
    data: bytes
    offset: int | None = None


@dataclass
class GGUFFile:
    entries: list[Entry] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    version: int = 3
    alignment: int = 32

    def entry(self, key: str) -> Entry:
        return next(entry for entry in self.entries if entry.key == key.encode())

    def tensor(self, name: str) -> Tensor:
        return next(tensor for tensor in self.tensors if tensor.name == name.encode())


def parse(data: bytes) -> GGUFFile:
    """Take a right file apart."""
    at = 24
    version, n_tensors, n_entries = struct.unpack_from("<IQQ", data, 4)

    def scalar(code: str) -> Any:
        nonlocal at
        value = struct.unpack_from("<" + code, data, at)[0]
        at += struct.calcsize("<" + code)
        return value

    def string() -> bytes:
        nonlocal at
        n = scalar("Q")
        at += n
        return data[at - n : at]

    def value(type: int) -> Any:
        return string() if type == STRING else scalar(SCALARS[type])

    file = GGUFFile(version=version)
    for _ in range(n_entries):
        key, type = string(), scalar("I")
        if type == ARRAY:
            type, n = scalar("I"), scalar("Q")
            file.entries.append(Entry(key, type, [value(type) for _ in range(n)], True))
        else:
            file.entries.append(Entry(key, type, value(type)))
    infos = []
    for _ in range(n_tensors):
        name = string()
        shape = [scalar("Q") for _ in range(scalar("I"))]
        infos.append((name, shape, scalar("I"), scalar("Q")))
    file.alignment = next((entry.value for entry in file.entries if entry.key == b"general.alignment"), 32)
    start = -(-at // file.alignment) * file.alignment
    ends = [info[3] for info in infos[1:]] + [len(data) - start]
    for (name, shape, type, offset), end in zip(infos, ends):
        file.tensors.append(Tensor(name, shape, type, data[start + offset : start + end]))
    return file


def build(file: GGUFFile) -> bytes:
    """Put a file together; numbers that a type cannot hold are cut to its bits."""

    def string(text: bytes) -> bytes:
        return struct.pack("<Q", len(text)) + text

    def value(type: int, value: Any) -> bytes:
        if type == STRING:
            return string(value if isinstance(value, bytes) else str(value).encode())
        code = SCALARS.get(type, "I")
        if isinstance(value, bytes):
            value = len(value)
        if code in "fd":
            return struct.pack("<" + code, float(value))
        bits = 8 * struct.calcsize("<" + code)
        return (int(value) % (1 << bits) if value == value and abs(value) != float("inf") else 0).to_bytes(
            bits // 8, "little"
        )

    parts = [b"GGUF", struct.pack("<IQQ", file.version, len(file.tensors), len(file.entries))]
    for entry in file.entries:
        parts.append(string(entry.key))
        if entry.is_array:
            parts.append(struct.pack("<IIQ", ARRAY, entry.type, len(entry.value)))
            parts.extend(value(entry.type, item) for item in entry.value)
        else:
            parts += [struct.pack("<I", entry.type), value(entry.type, entry.value)]
    offset, alignment = 0, max(1, file.alignment)
    for tensor in file.tensors:
        said = offset if tensor.offset is None else tensor.offset
        parts += [string(tensor.name), struct.pack("<I", len(tensor.shape))]
        parts += [(n % (1 << 64)).to_bytes(8, "little") for n in tensor.shape]
        parts += [struct.pack("<I", tensor.type % (1 << 32)), (said % (1 << 64)).to_bytes(8, "little")]
        offset += -(-len(tensor.data) // alignment) * alignment
    header = b"".join(parts)
    body = [header, b"\0" * (-len(header) % alignment)]
    for tensor in file.tensors:
        body += [tensor.data, b"\0" * (-len(tensor.data) % alignment)]
    return b"".join(body)


def write_parts(folder: Path, name: str, model: Path) -> list[Path]:
    """A model in two files, as llama.cpp splits one."""
    whole = parse(model.read_bytes())
    paths = []
    for i in range(2):
        split = [Entry(b"split.no", 2, i), Entry(b"split.count", 2, 2)]
        split.append(Entry(b"split.tensors.count", 5, len(whole.tensors)))
        tensors = whole.tensors[:10] if i == 0 else whole.tensors[10:]
        paths.append(folder / f"{name}-{i + 1:05d}-of-00002.gguf")
        paths[-1].write_bytes(build(GGUFFile([*(whole.entries if i == 0 else []), *split], tensors)))
    return paths
