"""The tokenizer of a GGUF file: llama.cpp's own, with the few methods of transformers' tokenizers that training calls.

transformers makes a tokenizer of a GGUF file as well, but without its pre-tokenizer and in a minute where this takes a
second; with this one, training reads texts as chats will.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import RetainError
from ...llama import Llama
from ...prompts.chat_format import ChatFormat, Message


class GgufTokenizer:
    """Tokens of texts and conversations.

    Parameters
    ----------
    path : a GGUF file; of its contents only the vocabulary is read.
    """

    def __init__(self, path: Path) -> None:
        self._llm = Llama(path, vocab_only=True, verbose=False)
        self.chat_template: str | None = self._llm.metadata.get("tokenizer.chat_template")
        self._format = ChatFormat(self._llm, self.chat_template)
        self._pieces: dict[int, bytes] = {}

    def __call__(
        self, text: str, add_special_tokens: bool = True, return_offsets_mapping: bool = False, verbose: bool = False
    ) -> dict[str, Any]:
        """Tokens as `input_ids`; and as `offset_mapping` where in the text each begins and ends, in characters.

        Parameters
        ----------
        add_special_tokens : begin with the token that begins texts of this model. Control tokens in the text are then
            text; without it, as in rendered conversations, they are control tokens.
        verbose : transformers warns of long texts with it.

        Raises
        ------
        RetainError : the vocabulary cannot express the text, or it does not say where in the text its tokens are.
        """
        tokens = self._llm.tokenize(text.encode(), add_bos=add_special_tokens, special=not add_special_tokens)
        encoding: dict[str, Any] = {"input_ids": tokens}
        if return_offsets_mapping:
            encoding["offset_mapping"] = self._offsets(text, tokens)
        return encoding

    def apply_chat_template(
        self, messages: Sequence[Message], tokenize: bool = False, add_generation_prompt: bool = False
    ) -> str:
        """The text of a conversation."""
        return self._format.render(messages, add_generation_prompt=add_generation_prompt)

    def _offsets(self, text: str, tokens: Sequence[int]) -> list[tuple[int, int]]:
        raw = text.encode()
        ends = np.cumsum([len(self._piece(token)) for token in tokens], dtype=int)
        written = b"".join(self._piece(token) for token in tokens)
        if not written.endswith(raw):
            raise RetainError(
                "the tokenizer changes texts, so the replies cannot be found in its tokens; train with --loss all"
            )
        ends = (ends - (len(written) - len(raw))).clip(min=0)  # SentencePiece writes a space before the first word
        # how many characters begin before each byte
        characters = np.concatenate(([0], np.cumsum((np.frombuffer(raw, np.uint8) & 0xC0) != 0x80)))
        stops = characters[ends].tolist()
        return list(zip([0, *stops[:-1]], stops))

    def _piece(self, token: int) -> bytes:
        if token not in self._pieces:
            self._pieces[token] = self._llm.detokenize([token], special=True)
        return self._pieces[token]
