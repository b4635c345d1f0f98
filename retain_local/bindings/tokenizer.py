"""The model's own tokenizer, with faults of the bindings and of llama.cpp kept away.

llama.cpp throws a C++ exception through its C API, which ends the process, when a SentencePiece vocabulary has no piece
and no byte tokens for a character, and stops the process for a model without a vocabulary. The bindings cut pieces longer
than 32 bytes, and for every text they fill as much memory as the trained context has tokens, which a file can say is 8 GB.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import RetainError, UsageError
from . import llama_cpp
from .usage import Usage

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # what SentencePiece writes for a space
_SPECIAL = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED


def check_tokens(tokens: Sequence[int], n_vocab: int) -> None:
    """Raise UsageError unless these are tokens of a model: llama.cpp ends the process over others."""
    for token in tokens:
        if not isinstance(token, (int, np.integer)) or not 0 <= token < n_vocab:
            raise UsageError(f"{token!r} is not a token of this model, whose tokens are 0 to {n_vocab - 1}")


class SafeTokenizer(llama_cpp.llama_tokenizer.LlamaTokenizer):
    """`LlamaTokenizer` for any text and any piece.

    Raises
    ------
    RetainError : when the model is closed, and from `tokenize`, for a character that its vocabulary cannot express, or a
        model that has none.
    UsageError : from `detokenize`, for a token that the model does not have.
    """

    def __init__(self, llama: Any) -> None:
        super().__init__(llama)
        self._usage: Usage = llama._usage

    @property
    def _vocab(self) -> Any:
        return self._model.vocab

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:
        with self._usage.reading():
            if self._model.vocab_type() == llama_cpp.LLAMA_VOCAB_TYPE_NONE:
                raise RetainError("the model has no vocabulary: it reads tokens by their numbers alone")
            if not self._has_all_bytes:
                self._check(text, special)
            size = len(text) + 2  # a token has a byte at least, and the text may get one at each end
            while True:
                tokens = (llama_cpp.llama_token * size)()
                n = llama_cpp.llama_tokenize(self._vocab, text, len(text), tokens, size, add_bos, special)
                if n >= 0:
                    return tokens[:n]
                size = -n

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        with self._usage.reading():
            check_tokens(tokens, self._model.n_vocab())
            text = b"".join(self._piece(token, special) for token in tokens)
            # as the bindings do: the space that SentencePiece puts before the first word is not part of the text
            starts_text = len(tokens) > 0 and tokens[0] == self._model.token_bos()
        return text[1:] if starts_text and text[:1] == b" " else text

    def _piece(self, token: int, special: bool) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, size, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            size = -n

    @cached_property
    def _has_all_bytes(self) -> bool:
        return self._model.vocab_type() != llama_cpp.LLAMA_VOCAB_TYPE_SPM or not self._missing_bytes

    @cached_property
    def _pieces(self) -> frozenset[str]:
        """Pieces of one character, and the byte tokens."""
        return frozenset(text for text in self._texts() if len(text) == 1 or text.startswith("<0x"))

    @cached_property
    def _missing_bytes(self) -> frozenset[int]:
        """Bytes without a byte token, and without the piece that llama.cpp takes instead."""
        return frozenset(
            byte
            for byte in range(256)
            if f"<0x{byte:02X}>" not in self._pieces and not (byte < 128 and chr(byte) in self._pieces)
        )

    def _texts(self) -> Iterator[str]:
        for token in range(self._model.n_vocab()):
            yield llama_cpp.llama_vocab_get_text(self._vocab, token).decode("utf-8", errors="replace")

    @cached_property
    def _special_texts(self) -> list[str]:
        """Texts that are taken out whole when special tokens are parsed, the longest first."""
        found = {
            text
            for token, text in enumerate(self._texts())
            if text and llama_cpp.llama_vocab_get_attr(self._vocab, token) & _SPECIAL
        }
        return sorted(found, key=len, reverse=True)

    def _check(self, text: bytes, special: bool) -> None:
        characters = text.decode("utf-8", errors="surrogateescape")
        if special:
            for whole in self._special_texts:
                characters = characters.replace(whole, "")
        for character in sorted(set(characters.replace(" ", _SPACE))):
            raw = character.encode("utf-8", errors="surrogateescape")
            if character not in self._pieces and not self._missing_bytes.isdisjoint(raw):
                raise RetainError(
                    f"the model's vocabulary cannot express the character {character!r} (U+{ord(character):04X});"
                    " take it out of the text"
                )
