"""The native loader takes what the writer writes, for its model, and nothing else."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retain_local.bindings import retain_h
from retain_local.gates import GateInfo, base_fingerprint, write_sidecar
from support.gguf_file import Entry, build, parse
from support.llama_session import Model
from support.retained import RetainedSession
from support.tiny_models import TinyModel, write_tiny_model
from support.wrong_sidecars import BASE, WRONG_SIDECARS, gates_of, write_changed_sidecar


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    model = Model(write_tiny_model(tmp_path_factory.mktemp("native") / "m.gguf", BASE))
    yield model
    model.close()


def refusal(model: Model, path: Path) -> str:
    """Why the native loader refuses a sidecar; "" when it takes it."""
    return "" if retain_h.gates_check(model.handle, str(path).encode()) else retain_h.error_text()


@pytest.mark.parametrize("weight_type", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize(("variant", "tied"), [("rg10", True), ("rg10", False), ("rg", False)])
def test_what_the_writer_writes_is_taken(
    model: Model, tmp_path: Path, variant: str, tied: bool, weight_type: str
) -> None:
    path = tmp_path / "g.gguf"
    fingerprint = base_fingerprint(model.path)
    write_sidecar(path, gates_of(variant, tied), GateInfo("llama", base_fingerprint=fingerprint), weight_type)
    assert refusal(model, path) == ""


@pytest.mark.parametrize(("fields", "tensors", "message"), WRONG_SIDECARS)
def test_a_wrong_file_is_refused(model: Model, tmp_path: Path, fields: dict, tensors: dict, message: str) -> None:
    path = tmp_path / "g.gguf"
    write_changed_sidecar(path, fields, tensors)
    reason = refusal(model, path)
    assert reason
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (replace(BASE, arch="qwen2", n_embd=128), "qwen2"),
        (replace(BASE, n_layer=2), "block_count"),
        (replace(BASE, n_embd=64), "embedding_length"),
        (replace(BASE, n_head_kv=4), "head_count_kv"),
    ],
)
def test_gates_of_another_model_are_refused(tmp_path: Path, other: TinyModel, reason: str) -> None:
    path = tmp_path / "g.gguf"
    write_sidecar(path, gates_of(), GateInfo("llama"))
    model = Model(write_tiny_model(tmp_path / "m.gguf", other))
    try:
        assert reason in refusal(model, path)
        with pytest.raises(RuntimeError, match=reason):
            RetainedSession(model, {"budget": 32, "gates": path})
    finally:
        model.close()


def test_gates_of_another_vocabulary_are_refused(model: Model, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "m.gguf", BASE, vocabulary_seed=1)
    path = tmp_path / "g.gguf"
    write_sidecar(path, gates_of(), GateInfo("llama", base_fingerprint=base_fingerprint(other)))
    assert "fingerprint" in refusal(model, path)


def test_what_is_no_sidecar_is_refused(model: Model, tmp_path: Path) -> None:
    assert "cannot open" in refusal(model, tmp_path / "absent.gguf")
    path = tmp_path / "g.gguf"
    path.write_bytes(b"PK\x03\x04")
    assert "not a GGUF" in refusal(model, path)
    assert refusal(model, model.path)


@pytest.fixture(scope="module")
def sidecar_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("native") / "g.gguf"
    write_sidecar(path, gates_of(), GateInfo("llama"), "q8_0")
    return path.read_bytes()


def test_a_tensor_larger_than_its_file_is_refused(model: Model, sidecar_bytes: bytes, tmp_path: Path) -> None:
    name = b"blk.0.retention_in.weight"
    n_rows = sidecar_bytes.index(name) + len(name) + 4 + 8  # behind the number of dimensions and the first of them
    path = tmp_path / "g.gguf"
    path.write_bytes(sidecar_bytes[:n_rows] + struct.pack("<Q", 2**48) + sidecar_bytes[n_rows + 8 :])
    assert "damaged" in refusal(model, path)


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_harmless(
    model: Model, sidecar_bytes: bytes, tmp_path_factory: pytest.TempPathFactory, data
) -> None:
    """Whatever is in the file, the loader answers; and what it takes, it can compute with."""
    damaged = bytearray(sidecar_bytes)
    if data.draw(st.booleans(), label="truncate"):
        del damaged[data.draw(st.integers(0, len(damaged) - 32), label="length") :]
    else:
        for _ in range(data.draw(st.integers(1, 4), label="changes")):
            damaged[data.draw(st.integers(0, 2000))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged-native.gguf"
    path.write_bytes(damaged)
    reason = refusal(model, path)
    if len(damaged) < len(sidecar_bytes):
        assert reason
    if not reason:
        with RetainedSession(model, {"budget": 32, "gates": path}, n_ctx=256) as session:
            assert np.isfinite(session.decode([1, 2, 3])).all()


def test_a_model_without_a_vocabulary_has_a_fingerprint_too(model: Model, tmp_path: Path) -> None:
    file = parse(Path(model.path).read_bytes())
    file.entries = [entry for entry in file.entries if not entry.key.startswith(b"tokenizer.")]
    file.entries.append(Entry(b"tokenizer.ggml.model", 8, b"none"))
    (tmp_path / "m.gguf").write_bytes(build(file))
    fingerprint = base_fingerprint(tmp_path / "m.gguf")
    assert fingerprint != base_fingerprint(model.path)
    write_sidecar(tmp_path / "g.gguf", gates_of(), GateInfo("llama", base_fingerprint=fingerprint))
    without = Model(tmp_path / "m.gguf")
    assert refusal(without, tmp_path / "g.gguf") == ""
    assert "made for another model" in refusal(model, tmp_path / "g.gguf")
    without.close()
