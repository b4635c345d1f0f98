"""Gate sidecars: what is written comes back, and nothing that is wrong is ever used."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from retain_local.errors import RetainError
from retain_local.gates import (
    GateFileError,
    GateInfo,
    GateSet,
    LayerGate,
    Linear,
    base_fingerprint,
    describe_sidecar,
    gate_output,
    read_sidecar,
    sidecar_table,
    write_sidecar,
)
from retain_local.gates.sidecar.fingerprint import fnv1a64
from support.tiny_gates import random_gates
from support.tiny_models import TINY_MODELS, TinyModel, write_tiny_model
from support.wrong_sidecars import WRONG_SIDECARS, gates_of, write_changed_sidecar

INFO = GateInfo(
    "llama",
    name="test gates",
    trained_budget=64,
    trained_context_length=2048,
    base_name="tiny",
    base_fingerprint="0123456789abcdef",
    source="a test",
    license="MIT",
    trained_on="a book",
    date="2026-01-31",
)
KINDS = [("rg10", True), ("rg10", False), ("rg", False)]


def with_first_layer(gates: GateSet, **parts: Linear | None) -> GateSet:
    return replace(gates, layers=(replace(gates.layers[0], **parts), *gates.layers[1:]))


# largest error of one number, relative to the largest of its row: half a step of the type
STEP = {"f32": 2**-24, "f16": 2**-11, "q8_0": 1 / 254 + 2**-11}


@pytest.mark.parametrize(("variant", "tied"), KINDS)
@pytest.mark.parametrize("weight_type", STEP)
def test_what_is_written_comes_back(tmp_path: Path, variant: str, tied: bool, weight_type: str) -> None:
    gates = gates_of(variant, tied)
    path = tmp_path / "a.gates.gguf"
    written = write_sidecar(path, gates, INFO, weight_type)
    sidecar = read_sidecar(path)

    assert sidecar.info == written.info == INFO
    assert (sidecar.gates.variant, sidecar.gates.tied) == (variant, tied)
    assert sidecar.n_bytes == path.stat().st_size
    expected = dict(gates.tensors())
    assert list(sidecar.types) == list(expected)
    for name, array in sidecar.gates.tensors():
        is_bias = name.endswith(".bias")
        assert sidecar.types[name] == ("f32" if is_bias else weight_type)
        bound = STEP["f32" if is_bias else weight_type] * np.abs(expected[name]).max(axis=-1, keepdims=True)
        assert (np.abs(array - expected[name]) <= bound).all(), name
    assert [file.name for file in tmp_path.iterdir()] == ["a.gates.gguf"]


def test_the_file_has_the_names_that_the_native_loader_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.gates.gguf"
    write_sidecar(path, gates_of(), INFO, "q8_0")
    reader = gguf.GGUFReader(path)

    def value(key: str) -> object:
        return reader.fields[key].contents()

    assert value("general.type") == "adapter"
    assert value("adapter.type") == "retention_gate"
    assert value("general.architecture") == "llama"
    keys = ("version", "variant", "tied", "block_count", "embedding_length", "feed_forward_length", "head_count_kv")
    assert [value(f"retention_gate.{key}") for key in keys] == [2, "rg10", True, 3, 96, 64, [2, 2, 2]]
    assert value("retention_gate.activation") == "silu"
    assert value("retention_gate.score") == "decay"
    assert value("retention_gate.layers") == [0, 1, 2]
    assert reader.fields["retention_gate.layers"].types == [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32]
    assert reader.fields["retention_gate.block_count"].types == [gguf.GGUFValueType.UINT32]
    shapes = {tensor.name: (tensor.shape.tolist(), tensor.tensor_type.name) for tensor in reader.tensors}
    assert shapes["blk.2.retention_in.weight"] == ([96, 64], "Q8_0")
    assert shapes["blk.2.retention_mid.weight"] == ([64, 64], "Q8_0")
    assert shapes["blk.2.retention_mid.bias"] == ([64], "F32")
    assert shapes["retention_score.weight"] == ([64, 2], "Q8_0")
    assert len(shapes) == 3 * 4 + 2


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        (GateSet(()), "at least one layer"),
        (replace(gates_of(), activation="tanh"), "activation 'tanh'"),
        (with_first_layer(gates_of("rg", False), score=None), "no final projection"),
        (replace(gates_of("rg", False), score=gates_of().score), "final projection of their own"),
        (with_first_layer(gates_of(), mid=None), "final projection of their own|not of variant"),
        (with_first_layer(gates_of(), score=gates_of().score), "either tied or given"),
        (with_first_layer(gates_of(), mid=Linear(np.zeros((64, 63)), np.zeros(64))), r"shape \[64, 63\]"),
        (with_first_layer(gates_of(), mid=Linear(np.zeros((64, 64)), np.zeros(65))), r"shape \[65\]"),
        (with_first_layer(gates_of(), hidden=Linear(np.zeros(64), np.zeros(64))), "two dimensions"),
        (replace(gates_of(), score=Linear(np.zeros((2, 64)), np.array([0, np.nan]))), "not all numbers are finite"),
        (replace(gates_of(), score=Linear(np.zeros((2, 64)), np.array([0, 1e300]))), "not all numbers are finite"),
        (replace(gates_of(), score=Linear(np.zeros((2, 64), int), np.zeros(2))), "not a float type"),
        (replace(gates_of(), score=Linear(np.zeros((0, 64)), np.zeros(0))), "is 0"),
    ],
)
def test_inconsistent_gates_are_not_written(tmp_path: Path, gates: GateSet, message: str) -> None:
    with pytest.raises(GateFileError, match=message):
        write_sidecar(tmp_path / "a.gguf", gates, INFO)
    assert list(tmp_path.iterdir()) == []


def test_what_a_type_cannot_hold_is_not_written(tmp_path: Path) -> None:
    narrow = random_gates(n_layer=1, n_embd=80, n_head_kv=2)
    with pytest.raises(GateFileError, match="rows of 80 cannot be q8_0.*multiple of 32"):
        write_sidecar(tmp_path / "a.gguf", narrow, INFO, "q8_0")
    large = replace(narrow, score=Linear(np.full((2, 64), 1e5), np.zeros(2)))
    with pytest.raises(GateFileError, match="too large for f16"):
        write_sidecar(tmp_path / "a.gguf", large, INFO, "f16")
    with pytest.raises(GateFileError, match="'q4_0' is not one of"):
        write_sidecar(tmp_path / "a.gguf", narrow, INFO, "q4_0")
    with pytest.raises(GateFileError, match="architecture"):
        write_sidecar(tmp_path / "a.gguf", narrow, GateInfo(""))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_sidecar(path, gates_of(), INFO)
    before = path.read_bytes()
    with pytest.raises(GateFileError):
        write_sidecar(path, with_first_layer(gates_of(), mid=None), INFO)
    assert path.read_bytes() == before
    with pytest.raises(GateFileError, match="No such file"):
        write_sidecar(tmp_path / "absent" / "a.gguf", gates_of(), INFO)


def test_an_unchanged_file_is_read(tmp_path: Path) -> None:
    write_changed_sidecar(tmp_path / "a.gguf", {}, {})
    assert read_sidecar(tmp_path / "a.gguf").info == GateInfo("llama")


@pytest.mark.parametrize(("fields", "tensors", "message"), WRONG_SIDECARS)
def test_a_wrong_file_is_refused(tmp_path: Path, fields: dict, tensors: dict, message: str) -> None:
    path = tmp_path / "a.gguf"
    write_changed_sidecar(path, fields, tensors)
    with pytest.raises(GateFileError, match=message) as error:
        read_sidecar(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert isinstance(error.value, RetainError)


def test_what_is_no_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    with pytest.raises(GateFileError, match="No such file"):
        read_sidecar(path)
    with pytest.raises(GateFileError, match="Is a directory"):
        read_sidecar(tmp_path)
    for content in (b"", b"GG", b"PK\x03\x04 something else"):
        path.write_bytes(content)
        with pytest.raises(GateFileError, match="not a GGUF file"):
            read_sidecar(path)
    path.write_bytes(b"GGUF" + struct.pack(">I", 3) + bytes(64))
    with pytest.raises(GateFileError, match="version 50331648 is not supported"):
        read_sidecar(path)


@pytest.fixture(scope="module")
def sidecar_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sidecar") / "a.gguf"
    write_sidecar(path, gates_of(), INFO, "q8_0")
    return path.read_bytes()


@given(data=st.data())
def test_a_truncated_file_is_refused(sidecar_bytes: bytes, tmp_path_factory: pytest.TempPathFactory, data) -> None:
    # the last tensor is followed by padding, which no one reads
    n = data.draw(st.integers(0, len(sidecar_bytes) - 32))
    path = tmp_path_factory.getbasetemp() / "truncated.gguf"
    path.write_bytes(sidecar_bytes[:n])
    with pytest.raises(GateFileError):
        read_sidecar(path)


@given(data=st.data())
def test_a_damaged_header_never_escapes_as_another_error(
    sidecar_bytes: bytes, tmp_path_factory: pytest.TempPathFactory, data
) -> None:
    damaged = bytearray(sidecar_bytes)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, 2000))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(damaged)
    try:
        sidecar = read_sidecar(path)
    except GateFileError:
        return
    sidecar.gates.checked()


@pytest.mark.parametrize("count", ["n_tensors", "n_fields"])
def test_absurd_counts_are_refused_at_once(tmp_path: Path, sidecar_bytes: bytes, count: str) -> None:
    damaged = bytearray(sidecar_bytes)
    struct.pack_into("<Q", damaged, {"n_tensors": 8, "n_fields": 16}[count], 2**60)
    path = tmp_path / "a.gguf"
    path.write_bytes(damaged)
    with pytest.raises(GateFileError, match="truncated or damaged"):
        read_sidecar(path)


def test_fnv1a64_has_its_published_values() -> None:
    assert fnv1a64([]) == 0xCBF29CE484222325
    assert fnv1a64([b"a"]) == 0xAF63DC4C8601EC8C
    assert fnv1a64([b"foo", b"bar"]) == 0x85944171F73967E8


def test_a_fingerprint_is_over_sizes_and_vocabulary_alone(tmp_path: Path) -> None:
    model = TINY_MODELS["llama"]

    def fingerprint(shape: TinyModel, seed: int = 0, vocabulary_seed: int | None = None) -> str:
        return base_fingerprint(write_tiny_model(tmp_path / "m.gguf", replace(shape, seed=seed), vocabulary_seed))

    expected = fingerprint(model)
    assert fingerprint(model, seed=1) == expected
    others = [
        fingerprint(model, vocabulary_seed=1),
        fingerprint(replace(model, n_layer=1)),
        fingerprint(replace(model, n_head_kv=4)),
        fingerprint(replace(model, n_head=4)),
        fingerprint(replace(model, n_embd=64)),
        fingerprint(replace(model, arch="qwen2")),
    ]
    assert len({expected, *others}) == len(others) + 1


def test_a_fingerprint_is_of_these_bytes(tmp_path: Path) -> None:
    """The definition, spelled out: per-layer counts stand for their first, texts end at a NUL, none is empty."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_block_count(2)
    writer.add_embedding_length(8)
    writer.add_head_count([4, 2])
    writer.add_token_list(["a", "", "b\0c", "\N{LATIN SMALL LETTER E WITH ACUTE}"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    expected = fnv1a64([b"llama\0", struct.pack("<5I", 2, 8, 4, 4, 4), b"a\0", b"[EMPTY_1]\0", b"b\0", b"\xc3\xa9\0"])
    assert base_fingerprint(tmp_path / "m.gguf") == f"{expected:016x}"


def test_a_file_without_vocabulary_has_no_fingerprint(tmp_path: Path) -> None:
    write_sidecar(tmp_path / "a.gguf", gates_of(), INFO)
    with pytest.raises(GateFileError, match="no vocabulary"):
        base_fingerprint(tmp_path / "a.gguf")


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_erf", "relu"])
@pytest.mark.parametrize(("variant", "tied"), KINDS)
def test_the_output_is_the_formula(variant: str, tied: bool, activation: str) -> None:
    import torch

    gates = replace(gates_of(variant, tied), activation=activation)
    hidden = np.random.default_rng(0).standard_normal((5, gates.n_embd))
    act = {
        "silu": torch.nn.functional.silu,
        "gelu": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
        "gelu_erf": torch.nn.functional.gelu,
        "relu": torch.relu,
    }[activation]

    def apply(linear: Linear, x):
        return torch.nn.functional.linear(x, torch.tensor(linear.weight), torch.tensor(linear.bias))

    for il, layer in enumerate(gates.layers):
        x = act(apply(layer.hidden, torch.tensor(hidden)))
        x = act(apply(layer.mid, x)) if layer.mid else x
        expected = torch.nn.functional.logsigmoid(apply(gates.final(il), x)).numpy()
        np.testing.assert_allclose(gate_output(gates, il, hidden), expected, rtol=1e-12)
        assert (expected < -1e-3).any() and (expected > -1).any()
        single = gate_output(gates, il, hidden, np.float32)
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, expected, rtol=1e-4, atol=1e-6)


def test_log_beta_at_the_ends_of_the_range() -> None:
    layer = LayerGate(Linear(np.zeros((1, 1)), np.zeros(1)))
    for bias, expected in ((200.0, 0.0), (-200.0, -200.0), (0.0, -np.log(2))):
        gates = GateSet((replace(layer, score=Linear(np.zeros((1, 1)), np.array([bias]))),))
        assert gate_output(gates, 0, np.ones((1, 1)), np.float32)[0, 0] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(("variant", "tied"), KINDS)
def test_inspection(tmp_path: Path, variant: str, tied: bool) -> None:
    path = tmp_path / "a.gguf"
    gates = gates_of(variant, tied)
    write_sidecar(path, gates, INFO, "f32")
    description = describe_sidecar(path)
    assert json.loads(json.dumps(description)) == description
    assert description["name"] == "test gates"
    assert (description["variant"], description["tied"]) == (variant, tied)
    assert description["types"] == {"f32": len(list(gates.tensors()))}
    assert (description["score"] is None) != tied
    first = description["layers"][0]["in"]
    assert first["shape"] == [64, 96]
    assert first["norm"] == pytest.approx(np.linalg.norm(gates.layers[0].hidden.weight))
    assert first["bias_max"] == pytest.approx(gates.layers[0].hidden.bias.max())

    console = Console(width=100, record=True, file=io.StringIO())
    console.print(sidecar_table(description))
    text = console.export_text()
    for fact in (
        "test gates",
        variant,
        "64",
        "2048",
        "tiny",
        "0123456789abcdef",
        "a test",
        "MIT",
        "a book",
        "2026-01-31",
    ):
        assert fact in text


def test_inspection_shows_text_from_the_file_as_text(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_sidecar(path, gates_of(), replace(INFO, source="[red]not markup[/red]\x1b[2J"))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(sidecar_table(describe_sidecar(path)))
    text = console.export_text(styles=True)
    assert "[red]not markup[/red]" in text
    assert "\x1b[2J" not in text
