"""Reading the header of a GGUF: what ggml reads, and nothing that it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from retain_local.models.gguf_header import GGML_TYPES, GateFileError, read_header
from support.gguf_file import Entry, GGUFFile, Tensor, build
from support.native_gguf import ggml, ggml_reads

F32_64 = b"\0" * 256


def small_file() -> GGUFFile:
    """Three keys and two tensors."""
    entries = [
        Entry(b"general.architecture", 8, b"llama"),
        Entry(b"numbers", 4, [1, 2, 3], is_array=True),
        Entry(b"words", 8, [b"a", b"", b"\xff"], is_array=True),
    ]
    return GGUFFile(entries, [Tensor(b"a", [8, 8], 0, F32_64), Tensor(b"b", [3], 0, b"\0" * 12)])


def write(path: Path, change: Callable[[GGUFFile], None] | None = None) -> Path:
    file = small_file()
    if change is not None:
        change(file)
    path.write_bytes(build(file))
    return path


def test_what_is_in_a_file(tmp_path: Path) -> None:
    header = read_header(write(tmp_path / "a.gguf"))
    assert header.get("general.architecture", 8) == "llama"
    assert header.fields["numbers"].value.tolist() == [1, 2, 3]
    assert header.fields["words"].value == [b"a", b"", b"\xff"]
    a, b = header.tensors["a"], header.tensors["b"]
    assert (a.shape, a.n_bytes, b.shape, b.n_bytes) == ((8, 8), 256, (3,), 12)
    assert b.offset == a.offset + 256
    assert header.end == header.size == b.offset + 32
    assert a.has_shape(8, 8, 1)
    assert not a.has_shape(8)


def test_the_types_are_those_of_ggml() -> None:
    """Blocks and bytes of every type, as the library says them."""
    # types that were taken out of ggml have blocks of no numbers
    known = {i: (ggml().ggml_blck_size(i), ggml().ggml_type_size(i)) for i in range(43)}
    known = {i: sizes for i, sizes in known.items() if sizes[0]}
    assert known == GGML_TYPES


def test_of_keys_that_are_equal_up_to_a_nul_the_first_counts(tmp_path: Path) -> None:
    def change(file: GGUFFile) -> None:
        file.entries += [Entry(b"key\0a", 4, 1), Entry(b"key", 4, 2), Entry(b"text", 8, b"cut\0off")]

    header = read_header(write(tmp_path / "a.gguf", change))
    assert header.get("key", 4) == 1
    assert header.get("text", 8) == "cut"


def test_texts_need_not_be_utf8(tmp_path: Path) -> None:
    def change(file: GGUFFile) -> None:
        file.entries += [Entry(b"\xff", 4, 1), Entry(b"\xfe", 4, 2), Entry(b"text", 8, b"caf\xe9")]

    header = read_header(write(tmp_path / "a.gguf", change))
    assert len(header.fields) == 6
    assert header.get("text", 8) == "caf\N{REPLACEMENT CHARACTER}"


def set_alignment(alignment: int) -> Callable[[GGUFFile], None]:
    def change(file: GGUFFile) -> None:
        file.entries.append(Entry(b"general.alignment", 4, alignment))
        file.alignment = alignment or 32

    return change


@pytest.mark.parametrize("alignment", [1, 2, 8, 64, 4096, 1 << 21])
def test_alignments(tmp_path: Path, alignment: int) -> None:
    header = read_header(write(tmp_path / "a.gguf", set_alignment(alignment)))
    assert all(tensor.offset % alignment == 0 for tensor in header.tensors.values())


REFUSED = [
    (set_alignment(0), "not a power of two"),
    (set_alignment(48), "not a power of two"),
    (lambda file: file.entries.append(Entry(b"general.alignment", 10, 32)), "not a power of two"),
    (lambda file: file.entries.append(Entry(b"", 4, 1)), "metadata key is empty"),
    (lambda file: file.entries.append(Entry(b"numbers", 4, 1)), "'numbers' is given twice"),
    (lambda file: file.entries.append(Entry(b"list", 9, [1], is_array=True)), "unknown array type"),
    (lambda file: file.entries.append(Entry(b"what", 13, 1)), "unknown metadata type 13"),
    (lambda file: setattr(file, "version", 1), "version 1 is not supported"),
    (lambda file: setattr(file, "version", 4), "version 4 is not supported"),
    (lambda file: setattr(file.tensors[1], "name", b"a"), "tensor 'a' is given twice"),
    (lambda file: setattr(file.tensors[1], "name", b"a\0b"), "tensor 'a' is given twice"),
    (lambda file: setattr(file.tensors[1], "name", b"x" * 64), "too long"),
    (lambda file: setattr(file.tensors[1], "shape", [1] * 5), "has 5 dimensions"),
    (lambda file: setattr(file.tensors[1], "shape", [2**63]), "cannot have shape"),
    (lambda file: setattr(file.tensors[1], "shape", [2**32, 2**32]), "cannot have shape"),
    (lambda file: setattr(file.tensors[1], "shape", [2**40]), "truncated: tensor 'b' ends beyond"),
    (lambda file: setattr(file.tensors[1], "type", 4), "has a type, 4, that"),
    (lambda file: setattr(file.tensors[1], "type", 43), "has a type, 43, that"),
    (lambda file: setattr(file.tensors[1], "type", 8), "cannot have shape"),
    (lambda file: setattr(file.tensors[1], "offset", 224), "'b' is not where the one before it ends"),
    (lambda file: setattr(file.tensors[1], "offset", 288), "'b' is not where the one before it ends"),
    (lambda file: setattr(file.tensors[0], "offset", 32), "'a' is not where the one before it ends"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_ggml_refuses_is_refused(tmp_path: Path, change: Callable[[GGUFFile], None], message: str) -> None:
    path = write(tmp_path / "a.gguf", change)
    with pytest.raises(GateFileError, match=message):
        read_header(path)
    assert not ggml_reads(path)
