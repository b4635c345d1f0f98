"""Files of tensors: what torch and safetensors write is read to the bit; what is damaged or hostile is refused."""

from __future__ import annotations

import json
import os
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from retain_local.gates.checkpoint.layout import CheckpointError
from retain_local.gates.checkpoint.read import read_checkpoint
from retain_local.gates.checkpoint.safetensors import read_safetensors, read_shards
from retain_local.gates.checkpoint.tensor import StoredTensor
from retain_local.gates.checkpoint.torch_file import read_torch

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def numbers(tensor: Any) -> np.ndarray:
    """What a torch tensor is in NumPy."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def same(stored: StoredTensor, tensor: Any) -> bool:
    found = stored.read()
    return stored.shape == tuple(tensor.shape) and np.array_equal(found, numbers(tensor), equal_nan=True)


@st.composite
def views(draw: st.DrawFn) -> Any:
    """A tensor cut from a storage in a way that torch allows: offsets, steps, transpositions."""
    dtype = draw(st.sampled_from(FLOATS))
    shape = draw(st.lists(st.integers(0, 5), min_size=0, max_size=4))
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))).to(dtype)
    for dim, n in enumerate(shape):
        first = draw(st.integers(0, n))
        tensor = tensor[(slice(None),) * dim + (slice(first, None, draw(st.integers(1, 3))),)]
    return tensor.permute(draw(st.permutations(range(len(shape)))))


@settings(max_examples=150)
@given(tensors=st.lists(views(), max_size=4), protocol=st.sampled_from([2, 3, 4, 5]))
def test_what_torch_saves_is_read(tmp_path_factory: pytest.TempPathFactory, tensors: list[Any], protocol: int) -> None:
    path = tmp_path_factory.getbasetemp() / "a.pth"
    named = {f"t{i}": tensor for i, tensor in enumerate(tensors)}
    torch.save(named, path, pickle_protocol=protocol)
    found = read_torch(path)
    assert found.keys() == named.keys()
    assert all(same(found[name], named[name]) for name in named)


@settings(max_examples=50)
@given(tensors=st.lists(views(), max_size=4))
def test_what_safetensors_saves_is_read(tmp_path_factory: pytest.TempPathFactory, tensors: list[Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "a.safetensors"
    named = {f"t{i}": tensor.contiguous().clone() for i, tensor in enumerate(tensors)}
    save_file(named, path, metadata={"format": "pt"})
    found = read_safetensors(path)
    assert found.keys() == named.keys()
    assert all(same(found[name], named[name]) for name in named)


def test_what_else_a_state_dict_holds_is_left_out(tmp_path: Path) -> None:
    state = OrderedDict(
        a=torch.ones(2), ids=torch.arange(3), flag=torch.tensor([True]), step=3, name="x", rate=0.5, none=None,
        more={"b": torch.ones(1)}, listed=[torch.ones(1), (1, 2)], parameter=torch.nn.Parameter(torch.zeros(2)),
    )  # fmt: skip
    torch.save(state, tmp_path / "a.pth")
    found = read_torch(tmp_path / "a.pth")
    assert sorted(found) == ["a", "flag", "ids", "listed.0", "more.b", "parameter"]
    assert same(found["a"], state["a"]) and same(found["parameter"], torch.zeros(2))
    with pytest.raises(CheckpointError, match="int64, not one of float64"):
        found["ids"].read()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One state dict in both formats."""
    folder = tmp_path_factory.mktemp("whole")
    state = {"layers.0.weight": torch.randn(4, 5), "layers.0.bias": torch.randn(4).bfloat16()}
    torch.save(state, folder / "a.pth")
    save_file(state, folder / "a.safetensors")
    return {".pth": (folder / "a.pth").read_bytes(), ".safetensors": (folder / "a.safetensors").read_bytes()}


READERS = {".pth": read_torch, ".safetensors": read_safetensors}


@pytest.mark.parametrize("suffix", READERS)
def test_truncated_files(tmp_path: Path, whole: dict[str, bytes], suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    data = whole[suffix]
    for n in {*range(0, len(data), 7), *range(len(data) - 40, len(data))}:
        path.write_bytes(data[:n])
        with pytest.raises(CheckpointError) as caught:
            READERS[suffix](path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", READERS)
@settings(max_examples=400)
@given(data=st.data())
def test_damaged_files(
    whole: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    """Whatever is in the file, the reader answers; and what it takes, it can read."""
    damaged = bytearray(whole[suffix])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    path.write_bytes(damaged)
    try:
        for tensor in READERS[suffix](path).values():
            tensor.read()
    except CheckpointError as error:
        assert "\n" not in str(error)


# hostile safetensors


def header(entries: Any, data: bytes = bytes(16), length: int | None = None) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: Any = "F32", shape: Any = (4,), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "not a safetensors file"),
        (b"PK\3\4", "not a safetensors file"),
        (header(entry(), length=2**63), "not a safetensors file, or a truncated one"),
        (header(entry(), length=2**20), "not a safetensors file, or a truncated one"),
        (header(b"[]"), "not a safetensors file"),
        (header(b"{" * 1000), "or a damaged one"),
        (header(b"[" * 1_000_000), "or a damaged one"),
        (header(b'{"a":{"dtype":"F32"},"a":{}}'), "or a damaged one"),
        (header({"a": 3}), "the header is damaged"),
        (header({"a": {}}), "the header is damaged"),
        (header(entry(shape=(3,))), "16 bytes for a tensor of shape [3]"),
        (header(entry(offsets=(0, 12))), "beyond its stored numbers"),
        (header(entry(shape=(3,), offsets=(0, 14)), bytes(14)), "14 bytes for a tensor of shape [3]"),
        (header(entry(offsets=(4, 20))), "not where the one before it ends"),
        (header(entry(offsets=(16, 0))), "not where the one before it ends"),
        (header(entry(offsets=(0, 32), shape=(8,))), "the file is truncated"),
        (header(entry(shape=(2,), offsets=(0, 8))), "the file is damaged: "),
        (header(entry(offsets=(0, "16"))), "not two numbers"),
        (header(entry(offsets=(0, 16, 16))), "not two numbers"),
        (header(entry(shape=(-4,))), "the file is damaged"),
        (header(entry(shape=(4.0,))), "has shape [4.0]"),
        (header(entry(shape=(2**40, 2**40))), "the file is damaged"),
        (header(entry(shape=(1,) * 10_000)), "has shape"),
        (header(entry(dtype=3)), "the header is damaged"),
        (header({**entry(), "b": entry()["a"]}), "not where the one before it ends"),
    ],
)
def test_a_hostile_header(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_safetensors(path)
    assert message in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_type_that_no_gate_has_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(header({**entry(), "b": entry("F8_E4M3", (3, 5), (16, 31))["a"]}, bytes(31)))
    found = read_safetensors(path)
    assert found["a"].read().tolist() == [0, 0, 0, 0]
    with pytest.raises(CheckpointError, match="F8_E4M3, not one of"):
        found["b"].read()


@pytest.mark.parametrize(
    "index, message",
    [
        ("[]", "not a JSON object"),
        ("{}", "names no files"),
        ('{"weight_map": {"a": 3}}', "names no files"),
        ('{"weight_map": {"a": "a.safetensors"}}', "no retention gates"),
        ('{"weight_map": {"retention_gate": "../a.safetensors"}}', "no safetensors file in the same folder"),
        ('{"weight_map": {"retention_gate": "/etc/passwd"}}', "no safetensors file in the same folder"),
        ('{"weight_map": {"retention_gate": "absent.safetensors"}}', "absent.safetensors: No such file"),
    ],
)
def test_a_hostile_index(tmp_path: Path, index: str, message: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(index)
    with pytest.raises(CheckpointError) as caught:
        read_shards(path)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["trimkv_weights.pth", "gates.safetensors"])
def test_a_pipe_is_no_checkpoint(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    os.mkfifo(tmp_path / name)
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(CheckpointError, match="not an ordinary file"):
            read_checkpoint(source)
    index = {"weight_map": {"model.layers.0.self_attn.retention_gate.bias": "gates.safetensors"}}
    (tmp_path / "a.safetensors.index.json").write_text(json.dumps(index))
    if name == "gates.safetensors":
        with pytest.raises(CheckpointError, match="not an ordinary file"):
            read_shards(tmp_path / "a.safetensors.index.json")
