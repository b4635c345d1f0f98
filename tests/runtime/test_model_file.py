"""Looking into model files before they are loaded."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from conftest import TinyFiles
from retain_local import Llama
from retain_local.errors import RetainError
from retain_local.kv_types import kv_type
from retain_local.models.model_file import read_model_file
from support.gguf_file import Entry, GGUFFile, build, parse, write_parts


def write_header(path: Path, arch: str | None = "llama", type: str | None = None, **keys: Any) -> Path:
    """A GGUF with metadata and no tensors; `keys` are of the architecture, with `__` for dots, None leaves one out."""
    writer = gguf.GGUFWriter(path, arch or "none")
    if type is not None:
        writer.add_type(type)
    for name, value in ({"block_count": 2, "embedding_length": 64, "attention__head_count": 4} | keys).items():
        key = f"{arch}.{name.replace('__', '.')}"
        if value is None:
            continue
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
        ("gemma4-assistant", {}, "drafts for another model"),
        ("graniteswitch", {}, "router"),
        ("qwen4exp", {}, "sparse attention"),
        ("kimi-linear", {}, "MLA"),
        ("bert", {}, "encoder"),
        ("gemma-embedding", {}, "encoder"),
        ("llama", {"attention__causal": False}, "encoder"),
        ("t5", {}, "encoder-decoder model"),
        ("deepseek2", {"attention__key_length_mla": 192}, "MLA"),
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
        ("gemma2", {}),
        ("gemma3", {"attention__sliding_window": 512}),
        ("gpt-oss", {"attention__sliding_window": 128}),
        ("jamba", {}),
        ("olmo2", {}),
        ("qwen3next", {}),
        ("deepseek2", {}),  # converted before MLA caches
    ],
)
def test_supported_attention(tmp_path: Path, arch: str, keys: dict[str, Any]) -> None:
    assert read_model_file(write_header(tmp_path / "m.gguf", arch, **keys)).architecture == arch


def test_other_kinds_of_gguf(tmp_path: Path, tiny: TinyFiles) -> None:
    with pytest.raises(RetainError, match="gate sidecar, not a model"):
        read_model_file(tiny.gates("llama"))
    with pytest.raises(RetainError, match="type 'adapter'"):
        read_model_file(write_header(tmp_path / "lora.gguf", type="adapter", block_count=None))
    with pytest.raises(RetainError, match="projector"):
        read_model_file(write_header(tmp_path / "mmproj.gguf", "clip"))
    with pytest.raises(RetainError, match="how many layers"):
        read_model_file(write_header(tmp_path / "m.gguf", block_count=None))


def test_a_kind_that_llama_cpp_does_not_look_at(tmp_path: Path) -> None:
    assert read_model_file(write_header(tmp_path / "m.gguf", type="merge")).architecture == "llama"


@pytest.mark.parametrize("n_layer", [0, 513, 2**30, 2**32 - 1])
def test_layers_that_llama_cpp_has_no_room_for(tmp_path: Path, n_layer: int) -> None:
    path = write_header(tmp_path / "m.gguf", block_count=n_layer)
    assert path.stat().st_size < 400
    tracemalloc.start()
    with pytest.raises(RetainError, match=f"'llama.block_count' is {n_layer}; llama.cpp takes 1 to 512"):
        read_model_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20  # it was 18 GB


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"attention__head_count_kv": [1, 2, 3]}, "not a count per layer"),
        ({"attention__head_count_kv": 3}, "4 heads cannot share 3 KV heads"),
        ({"attention__head_count_kv": [4, 3]}, "4 heads cannot share 3 KV heads"),
        ({"attention__head_count": 0, "attention__head_count_kv": 4}, "0 heads cannot share 4 KV heads"),
        ({"embedding_length": 2**31}, "'llama.embedding_length' is 2147483648"),
        ({"expert_count": 1025}, "'llama.expert_count' is 1025"),
        ({"expert_count": 4}, "0 of 4 experts"),
        ({"expert_used_count": 2}, "2 of 0 experts"),
        ({"expert_count": 4, "expert_used_count": [1, 5]}, "5 of 4 experts"),
        (
            {"expert_count": 4, "expert_used_count": 2, "expert_group_count": 3, "expert_group_used_count": 1},
            "3 groups",
        ),
        ({"expert_group_count": 1}, "'llama.expert_group_count' is 1"),
        ({"rope__dimension_count": 17}, "17 of the 16 numbers of a head cannot be rotated"),
        ({"nextn_predict_layers": 3}, "'llama.nextn_predict_layers' is 3"),
    ],
)
def test_sizes_that_llama_cpp_does_not_survive(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(RetainError, match=message):
        read_model_file(write_header(tmp_path / "m.gguf", **keys))


def changed_model(path: Path, tiny: TinyFiles, change: Callable[[GGUFFile], None]) -> Path:
    """The tiny model with its metadata or tensors changed."""
    file = parse(tiny.model("llama").read_bytes())
    change(file)
    path.write_bytes(build(file))
    return path


def set_value(key: str, type: int, value: Any) -> Callable[[GGUFFile], None]:
    def change(file: GGUFFile) -> None:
        file.entries = [entry for entry in file.entries if entry.key != key.encode()]
        if value is not None:
            file.entries.append(Entry(key.encode(), type, value))

    return change


UNUSUAL = [
    set_value("general.name", 8, b"caf\xe9 \xff"),
    set_value("general.name", 8, None),
    set_value("general.type", 8, b"\xff"),
    set_value("general.type", 4, 7),
    set_value("adapter.type", 4, 7),
    set_value("llama.attention.sliding_window", 5, -1),
    set_value("llama.attention.sliding_window", 6, 0.5),
    set_value("llama.attention.key_length_mla", 5, -1),
    set_value("llama.attention.head_count_kv", 4, 2),
    set_value("some.key\0of no use", 4, 1),
    set_value("general.alignment\0", 4, 32),
    lambda file: file.entries.append(Entry(b"\xff\xfe", 4, 1)),
    lambda file: file.entries.append(Entry(b"general.architecture\0", 8, b"mamba")),
    lambda file: setattr(file, "version", 2),
    lambda file: setattr(file.tensor("blk.0.attn_norm.weight"), "shape", [128, 1, 1, 1]),
]


@pytest.mark.parametrize("change", UNUSUAL)
def test_what_llama_cpp_loads_is_taken(tmp_path: Path, tiny: TinyFiles, change: Callable[[GGUFFile], None]) -> None:
    path = changed_model(tmp_path / "m.gguf", tiny, change)
    assert read_model_file(path).n_head_kv == (2, 2, 2)
    llm = Llama(path, n_ctx=32, n_batch=32, n_ubatch=32, n_threads=1, budget=32)
    llm.eval([1, 5, 6])
    assert "message" in llm.metadata["tokenizer.chat_template"]  # the bindings lose all of it for one odd text
    llm.close()


def test_a_whole_model_whose_name_is_that_of_a_part(tmp_path: Path, tiny: TinyFiles) -> None:
    path = tmp_path / "x-00002-of-00003.gguf"
    shutil.copy(tiny.model("llama"), path)
    model = read_model_file(path)
    assert model.sidecar_path().name == "x-00002-of-00003.gates.gguf"
    one = changed_model(tmp_path / "y-00001-of-00002.gguf", tiny, set_value("split.count", 2, 1))
    assert read_model_file(one).n_parts == 1


def test_split_models(tmp_path: Path, tiny: TinyFiles) -> None:
    first, second = write_parts(tmp_path, "big", tiny.model("llama"))
    model = read_model_file(first)
    assert model.n_parts == 2
    assert model.sidecar_path().name == "big.gates.gguf"
    with pytest.raises(RetainError, match="part 2 .* name its first part, big-00001-of-00002.gguf"):
        read_model_file(second)
    with pytest.raises(RetainError, match="must be named so: NAME-00001-of-00002.gguf"):
        read_model_file(first.rename(tmp_path / "renamed.gguf"))


def test_damage_in_a_later_part_is_told_of_that_part(tmp_path: Path, tiny: TinyFiles) -> None:
    first, second = write_parts(tmp_path, "big", tiny.model("llama"))
    whole = second.read_bytes()
    second.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RetainError, match="big-00002-of-00002.gguf: the file is truncated"):
        read_model_file(first)
    second.write_bytes(first.read_bytes())
    with pytest.raises(RetainError, match="big-00002-of-00002.gguf is another part"):
        read_model_file(first)
    second.unlink()
    with pytest.raises(RetainError, match="big-00002-of-00002.gguf: this part of the split model is missing"):
        read_model_file(first)


def test_two_tokens_of_one_text(tmp_path: Path, tiny: TinyFiles) -> None:
    def change(file: GGUFFile) -> None:
        file.entry("tokenizer.ggml.tokens").value[7] = b"<s>\0"

    with pytest.raises(RetainError, match="tokens 1 and 7 of the vocabulary have the same text"):
        read_model_file(changed_model(tmp_path / "m.gguf", tiny, change))


def test_a_layer_without_keys(tmp_path: Path, tiny: TinyFiles) -> None:
    file = parse(tiny.model("phi3").read_bytes())
    file.tensors.remove(file.tensor("blk.1.attn_qkv.weight"))
    (tmp_path / "m.gguf").write_bytes(build(file))
    with pytest.raises(RetainError, match="layer 1 has no weights for queries"):
        read_model_file(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    "name", ["blk.1.attn_norm.weight", "blk.1.attn_k.weight", "blk.0.attn_q.bias", "token_embd.weight"]
)
def test_weights_that_are_whole_numbers(tmp_path: Path, tiny: TinyFiles, name: str) -> None:
    file = parse(tiny.model("qwen2").read_bytes())
    file.tensor(name).type = 26  # i32, of the same size as f32
    (tmp_path / "m.gguf").write_bytes(build(file))
    with pytest.raises(RetainError, match=f"tensor '{name}' has type 26, which llama.cpp cannot compute with"):
        read_model_file(tmp_path / "m.gguf")


def test_norms_in_half_precision(tmp_path: Path, tiny: TinyFiles) -> None:
    """The CPU's code ended the process at the first token."""
    file = parse(tiny.model("llama").read_bytes())
    norm = file.tensor("blk.1.attn_norm.weight")
    norm.type, norm.data = 1, np.frombuffer(norm.data, "<f4").astype("<f2").tobytes()
    (tmp_path / "m.gguf").write_bytes(build(file))
    assert read_model_file(tmp_path / "m.gguf").half_vector == "blk.1.attn_norm.weight"
    with pytest.raises(
        RetainError, match="'blk.1.attn_norm.weight' is in half precision, which only GPUs compute with"
    ):
        Llama(tmp_path / "m.gguf", n_ctx=32, n_batch=32, n_ubatch=32, n_threads=1, budget=32)


def test_a_pipe_is_no_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.gguf")
    with pytest.raises(RetainError, match="not an ordinary file"):
        read_model_file(tmp_path / "m.gguf")


def test_fingerprint_tells_files_apart(tmp_path: Path, tiny: TinyFiles) -> None:
    whole = bytearray(tiny.model("llama").read_bytes())
    copy, other = tmp_path / "copy.gguf", tmp_path / "other.gguf"
    copy.write_bytes(whole)
    whole[-1] ^= 1
    other.write_bytes(whole)
    prints = [read_model_file(path).fingerprint() for path in (tiny.model("llama"), copy, other)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [("stablelm.attention.key_length", 64, "stablelm.cpp:"), ("general.alignment", 1, "ggml-backend.cpp:")],
)
def test_what_only_llama_cpp_finds_is_an_error_too(
    tmp_path: Path, tiny: TinyFiles, key: str, value: int, place: str
) -> None:
    """Heads of 64 numbers where the weights are made for 32; weights at odd addresses. Both ended the process."""
    file = parse(tiny.model("stablelm").read_bytes())
    set_value(key, 4, value)(file)
    file.alignment = 1 if key == "general.alignment" else 32
    (tmp_path / "m.gguf").write_bytes(build(file))
    with pytest.raises(RetainError, match=f"llama.cpp cannot take this model \\({place}.*GGML_ASSERT"):
        Llama(tmp_path / "m.gguf", n_ctx=32, n_batch=32, n_ubatch=32, n_threads=1, budget=32)
