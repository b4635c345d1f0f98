"""Tokenizing text that a vocabulary cannot express, and pieces longer than the bindings' buffer."""

from __future__ import annotations

import resource
from pathlib import Path

import gguf
import pytest

from conftest import TinyFiles
from retain_local import Llama
from retain_local.errors import RetainError
from support.gguf_file import Entry, build, parse

LONG = "=" * 100


def write_vocabulary(path: Path, bytes_too: bool, model: str = "llama") -> Path:
    """A vocabulary without a model: letters, a space, a long piece, and a marker whose characters are not pieces."""
    kind = gguf.TokenType
    tokens = ["<unk>", "<s>", "</s>", "<|user|>", "\N{LOWER ONE EIGHTH BLOCK}", *"abcdefs", "é", LONG]
    types = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL, kind.USER_DEFINED] + [kind.NORMAL] * (len(tokens) - 4)
    if bytes_too:
        tokens += [f"<0x{byte:02X}>" for byte in range(256)]
        types += [kind.BYTE] * 256
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(32)
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([float(-i) for i in range(len(tokens))])
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def bare(tmp_path: Path) -> Llama:
    return Llama(write_vocabulary(tmp_path / "bare.gguf", bytes_too=False), vocab_only=True)


@pytest.mark.parametrize("text, character", [("abZ", "'Z' \\(U\\+005A\\)"), ("日", "U\\+65E5"), ("a\nb", "U\\+000A")])
def test_a_character_outside_the_vocabulary(bare: Llama, text: str, character: str) -> None:
    with pytest.raises(RetainError, match=f"cannot express the character .*{character}"):
        bare.tokenize(text.encode())


def test_bytes_that_are_no_text(bare: Llama) -> None:
    with pytest.raises(RetainError, match="cannot express"):
        bare.tokenize(b"ab\xff")


def test_what_the_vocabulary_has(bare: Llama) -> None:
    assert bare.detokenize(bare.tokenize("deaf cabs é".encode())) == "deaf cabs é".encode()


def test_markers_count_as_a_whole(bare: Llama) -> None:
    assert 3 in bare.tokenize(b"<|user|>ab", special=True)
    with pytest.raises(RetainError, match="cannot express"):
        bare.tokenize(b"<|us er|>ab", special=True)


def test_completion_says_it_too(tmp_path: Path, bare: Llama) -> None:
    with pytest.raises(RetainError, match="cannot express"):
        bare.create_completion("日")


def test_byte_tokens_express_everything(tmp_path: Path) -> None:
    llm = Llama(write_vocabulary(tmp_path / "bytes.gguf", bytes_too=True), vocab_only=True)
    text = "日本 Z\n\x01".encode()
    assert llm.detokenize(llm.tokenize(text)) == text


def test_long_pieces_stay_whole(bare: Llama) -> None:
    long = bare.n_vocab() - 1
    assert bare.detokenize([5, long]) == b"a" + LONG.encode()
    assert bare.tokenizer().detokenize([long]) == LONG.encode()


def test_a_text_takes_no_memory_for_the_trained_context(tmp_path: Path, tiny: TinyFiles) -> None:
    """The bindings fill four bytes for each token that a model says it was trained for."""
    file = parse(tiny.model("llama").read_bytes())
    file.entry("llama.context_length").value = 2**31 - 1
    (tmp_path / "m.gguf").write_bytes(build(file))
    llm = Llama(tmp_path / "m.gguf", n_ctx=32, n_batch=32, n_ubatch=32, n_threads=1, budget=32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tokens = llm.tokenize(b"Hello, world")
    assert len(tokens) == 13
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


def test_a_model_without_a_vocabulary(tmp_path: Path, tiny: TinyFiles) -> None:
    file = parse(tiny.model("llama").read_bytes())
    file.entries = [entry for entry in file.entries if not entry.key.startswith(b"tokenizer")]
    file.entries.append(Entry(b"tokenizer.ggml.model", 8, b"none"))
    (tmp_path / "m.gguf").write_bytes(build(file))
    llm = Llama(tmp_path / "m.gguf", n_ctx=32, n_batch=32, n_ubatch=32, n_threads=1, budget=32)
    llm.eval([1, 2, 3])
    with pytest.raises(RetainError, match="no vocabulary"):
        llm.tokenize(b"Hello")
