"""Looking into model files before they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest

from conftest import TinyFiles
from retain_local.errors import RetainError
from retain_local.kv_types import kv_type
from retain_local.models.model_file import read_model_file


def write_header(path: Path, arch: str | None = "llama", type: str | None = None, **keys: Any) -> Path:
    """A GGUF with metadata and no tensors; `keys` are of the architecture, with `__` for dots."""
    writer = gguf.GGUFWriter(path, arch or "none")
    if type is not None:
        writer.add_type(type)
    for name, value in ({"block_count": 2, "embedding_length": 64, "attention__head_count": 4} | keys).items():
        key = f"{arch}.{name.replace('__', '.')}"
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        else:
            writer.add_uint32(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_what_a_file_says(tmp_path: Path) -> None:
    path = write_header(
        tmp_path / "m.gguf",
        attention__head_count_kv=[2, 1],
        attention__key_length=32,
        attention__value_length=16,
        context_length=1024,
    )
    model = read_model_file(path)
    assert (model.architecture, model.n_head_kv, model.head_k, model.head_v) == ("llama", (2, 1), 32, 16)
    assert model.n_ctx_train == 1024
    assert model.sidecar_path() == tmp_path / "m.gates.gguf"
    assert model.bytes_per_token(kv_type("f16"), kv_type("f32")) == 3 * (64 + 64)
    assert model.bytes_per_token(kv_type("q8_0"), kv_type("f16")) == 3 * (34 + 32)


def test_head_size_and_kv_heads_default_to_the_heads(tmp_path: Path) -> None:
    model = read_model_file(write_header(tmp_path / "m.gguf"))
    assert (model.n_head_kv, model.head_k, model.head_v) == ((4, 4), 16, 16)


def test_no_such_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(RetainError, match="no such file"):
        read_model_file(tmp_path / "absent.gguf")
    with pytest.raises(RetainError, match="is a folder"):
        read_model_file(tmp_path)


@pytest.mark.parametrize("content", [b"", b"GG", b"not a model at all", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 16])
def test_not_a_gguf(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(RetainError, match="not a GGUF|truncated|not supported"):
        read_model_file(path)


def test_truncated_header(tiny: TinyFiles, tmp_path: Path) -> None:
    whole = tiny.model("llama").read_bytes()
    path = tmp_path / "m.gguf"
    for size in (10, 100, 1000):
        path.write_bytes(whole[:size])
        with pytest.raises(RetainError, match="truncated"):
            read_model_file(path)


@pytest.mark.parametrize(
    "arch, keys, reason",
    [
        ("mamba", {}, "recurrent"),
        ("rwkv7", {}, "recurrent"),
        ("jamba", {}, "recurrent layers"),
        ("qwen3next", {}, "recurrent layers"),
        ("bert", {}, "encoder"),
        ("gemma-embedding", {}, "encoder"),
        ("llama", {"attention__causal": False}, "encoder"),
        ("t5", {}, "encoder-decoder"),
        ("deepseek2", {"attention__key_length_mla": 192}, "MLA"),
        ("gemma2", {}, "iSWA"),
        ("gpt-oss", {"attention__sliding_window": 128}, "iSWA"),
        ("gemma3", {"attention__sliding_window": 512}, "iSWA"),
    ],
)
def test_unsupported_attention(tmp_path: Path, arch: str, keys: dict[str, Any], reason: str) -> None:
    with pytest.raises(RetainError, match=f"architecture '{arch}' .*{reason}"):
        read_model_file(write_header(tmp_path / "m.gguf", arch, **keys))


@pytest.mark.parametrize(
    "arch, keys",
    [
        ("phi3", {"attention__sliding_window": 2047}),  # llama.cpp does not use it
        ("llama4", {"attention__sliding_window": 0}),
        ("gemma3", {}),
        ("olmo2", {}),
        ("deepseek2", {}),  # converted before MLA caches
    ],
)
def test_metadata_of_full_attention(tmp_path: Path, arch: str, keys: dict[str, Any]) -> None:
    assert read_model_file(write_header(tmp_path / "m.gguf", arch, **keys)).architecture == arch


def test_other_kinds_of_gguf(tmp_path: Path, tiny: TinyFiles) -> None:
    with pytest.raises(RetainError, match="gate sidecar, not a model"):
        read_model_file(tiny.gates("llama"))
    with pytest.raises(RetainError, match="type 'adapter'"):
        read_model_file(write_header(tmp_path / "lora.gguf", type="adapter"))
    with pytest.raises(RetainError, match="projector"):
        read_model_file(write_header(tmp_path / "mmproj.gguf", "clip"))
    with pytest.raises(RetainError, match="how many layers"):
        read_model_file(write_header(tmp_path / "m.gguf", block_count=0))


def test_absurd_counts(tmp_path: Path) -> None:
    with pytest.raises(RetainError, match="not a count per layer"):
        read_model_file(write_header(tmp_path / "m.gguf", attention__head_count_kv=[1, 2, 3]))


def test_split_models(tmp_path: Path) -> None:
    first = write_header(tmp_path / "big-00001-of-00002.gguf")
    with pytest.raises(RetainError, match="big-00002-of-00002.gguf: this part of the split model is missing"):
        read_model_file(first)
    second = write_header(tmp_path / "big-00002-of-00002.gguf")
    assert read_model_file(first).sidecar_path().name == "big.gates.gguf"
    with pytest.raises(RetainError, match="part 2 .* name its first part, big-00001-of-00002.gguf"):
        read_model_file(second)


def test_fingerprint_tells_files_apart(tmp_path: Path, tiny: TinyFiles) -> None:
    whole = bytearray(tiny.model("llama").read_bytes())
    copy, other = tmp_path / "copy.gguf", tmp_path / "other.gguf"
    copy.write_bytes(whole)
    whole[-1] ^= 1
    other.write_bytes(whole)
    prints = [read_model_file(path).fingerprint() for path in (tiny.model("llama"), copy, other)]
    assert prints[0] == prints[1] != prints[2]
