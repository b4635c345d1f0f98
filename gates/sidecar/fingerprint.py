"""The fingerprint that ties a gate sidecar to its base model.

Gates read a model's hidden states, so they fit that model alone; a sidecar for another one of the same shape would load
and score nonsense. The fingerprint covers the sizes the gates depend on and the vocabulary, and none of the weights: a
quantised copy of a model has the fingerprint of the original. The native loader computes the same one.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable

import numpy as np

from ...models.gguf_header import STRING, U32, GateFileError, Header, read_header

FNV_OFFSET = 0xCBF29CE484222325
FNV_PRIME = 0x100000001B3
U64 = 0xFFFFFFFFFFFFFFFF
_NO_VOCABULARY = ("none", "no_vocab")  # what llama.cpp calls it


def fnv1a64(chunks: Iterable[bytes]) -> int:
    """FNV-1a, 64 bits, over the bytes of all chunks in order."""
    state = FNV_OFFSET
    for chunk in chunks:
        for byte in chunk:
            state = (state ^ byte) * FNV_PRIME & U64
    return state


def base_fingerprint(path: str | os.PathLike[str]) -> str:
    """Fingerprint of a model's hyper-parameters and vocabulary.

    FNV-1a 64 over: the architecture and a NUL; block count, embedding length, heads, KV heads (of the first layer) and
    vocabulary size, each as a little-endian uint32; then every token's text and a NUL.

    Parameters
    ----------
    path : path of the model, a GGUF file (of a split model: its first file).

    Returns
    -------
    str : 16 lower-case hex digits.

    Raises
    ------
    GateFileError : not a GGUF file, or not one of a language model.
    """
    header = read_header(path)
    arch = header.require("general.architecture", STRING)
    tokens = _vocabulary(header)
    n_head = _first_of(header, f"{arch}.attention.head_count", 0)
    sizes = (
        header.require(f"{arch}.block_count", U32),
        header.require(f"{arch}.embedding_length", U32),
        n_head,
        _first_of(header, f"{arch}.attention.head_count_kv", n_head),
        len(tokens) if tokens is not None else header.get(f"{arch}.vocab_size", U32, 0),
    )
    texts = (_token_text(i, token) + b"\0" for i, token in enumerate(tokens or ()))
    return format(fnv1a64([arch.encode() + b"\0", struct.pack("<5I", *sizes), *texts]), "016x")


def _vocabulary(header: Header) -> list[bytes] | None:
    """The tokens; None for a model that reads numbers alone, of which only the vocabulary's size is known."""
    if header.get("tokenizer.ggml.model", STRING) in _NO_VOCABULARY:
        return None
    tokens = header.fields.get("tokenizer.ggml.tokens")
    if tokens is None or not tokens.is_array or tokens.type != STRING:
        raise GateFileError(f"{header.path}: the model has no vocabulary")
    return tokens.value


def _first_of(header: Header, key: str, default: int) -> int:
    """A count that a model gives once or once per layer: the one of the first layer."""
    field = header.fields.get(key)
    if field is None:
        return default
    first = next(iter(field.value), None) if field.is_array else field.value
    if isinstance(first, np.integer):
        first = int(first)
    if not isinstance(first, int) or not 0 <= first < 2**32:
        raise GateFileError(f"{header.path}: metadata key '{key}' is not a count")
    return first


def _token_text(i: int, raw: bytes) -> bytes:
    """The text that llama.cpp gives token i: it reads a C string, and names a token without text."""
    return raw.split(b"\0", 1)[0] or b"[EMPTY_%d]" % i
