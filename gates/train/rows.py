"""Documents as rows of tokens, packed so that little of a row is empty."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

import numpy as np
import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...errors import RetainError
from .documents import Document, Message
from .gguf_tokenizer import GgufTokenizer

Tokenizer: TypeAlias = PreTrainedTokenizerBase | GgufTokenizer

LEAST_TOKENS = 2  # a shorter piece has nothing to predict
_SHUFFLE = 4096  # documents that are shuffled at a time, so that a data set need not be read to its end


@dataclass(frozen=True)
class Piece:
    """A document, or as much of it as fits a row: tokens int32 [n], and which of them count in the loss, bool [n]."""

    tokens: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Rows of tokens, all [B, T] on one device.

    ids : int64.
    positions : int64, of the tokens in their documents.
    documents : int64, which document each is of; -1 past the last.
    counts : bool, whether the token is one that must be predicted. The first of a document never is.
    """

    ids: Tensor
    positions: Tensor
    documents: Tensor
    counts: Tensor


class Rows:
    """The rows of a training, in the order of a seed.

    Parameters
    ----------
    documents : read until there are enough rows, or to their end; then the rows repeat in another order.
    context : T.
    n_needed : rows that the whole training takes.
    assistant_only : count what the assistant says and nothing else.
    packs_documents : whether a row may hold several documents.

    Raises
    ------
    RetainError : no document gives anything to learn from, or the tokenizer has no chat template for conversations.
    """

    def __init__(
        self, documents: Iterable[Document], tokenizer: Tokenizer, context: int, n_needed: int, seed: int,
        assistant_only: bool, packs_documents: bool = True,
    ) -> None:  # fmt: skip
        self.context, self.seed = context, seed
        self.rows: list[list[Piece]] = []
        self.n_skipped = 0
        pieces = self._pieces(_shuffled(documents, Random(f"documents-{seed}")), tokenizer, assistant_only)
        for row in _pack(pieces, context) if packs_documents else ([piece] for piece in pieces):
            self.rows.append(row)
            if len(self.rows) == n_needed:
                break
        if not self.rows:
            raise RetainError(
                "the data hold nothing to learn from: "
                + ("no reply of an assistant was found" if assistant_only else "no document has two tokens")
            )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_tokens(self) -> int:
        return sum(len(piece.tokens) for row in self.rows for piece in row)

    def digest(self) -> str:
        """A checksum of all rows, so that a resumed training is on the same ones."""
        digest = hashlib.sha256()
        for row in self.rows:
            for piece in row:
                digest.update(piece.tokens.tobytes())
                digest.update(piece.counts.tobytes())
            digest.update(b"row")
        return digest.hexdigest()

    def batch(self, step: int, size: int, device: torch.device) -> Batch:
        """The batch of a step, from 0."""
        chosen = []
        for number in range(step * size, (step + 1) * size):
            epoch, at = divmod(number, len(self.rows))
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))
            chosen.append(self.rows[order[at]])
        return make_batch(chosen, self.context, device)

    def _pieces(self, documents: Iterable[Document], tokenizer: Tokenizer, assistant_only: bool) -> Iterator[Piece]:
        for document in documents:
            whole = _encode(document, tokenizer, assistant_only)
            if not whole.counts[1:].any():
                self.n_skipped += 1
                continue
            for start in range(0, len(whole.tokens), self.context):
                piece = Piece(whole.tokens[start : start + self.context], whole.counts[start : start + self.context])
                if piece.counts[1:].any():
                    yield piece


def make_batch(rows: Sequence[Sequence[Piece]], context: int, device: torch.device | str = "cpu") -> Batch:
    """Rows of pieces as tensors."""
    shape = len(rows), context
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    documents, counts = np.full(shape, -1, np.int64), np.zeros(shape, bool)
    for at, row in enumerate(rows):
        start = 0
        for number, piece in enumerate(row):
            stop = start + len(piece.tokens)
            ids[at, start:stop] = piece.tokens
            positions[at, start:stop] = np.arange(len(piece.tokens))
            documents[at, start:stop] = number
            counts[at, start + 1 : stop] = piece.counts[1:]
            start = stop
        positions[at, start:] = np.arange(context - start)
    return Batch(*(torch.from_numpy(array).to(device) for array in (ids, positions, documents, counts)))


def _pack(pieces: Iterator[Piece], context: int) -> Iterator[list[Piece]]:
    """Rows of at most ``context`` tokens: a piece goes into the fullest of a few open rows that has room for it."""
    most_open = 8
    rows: list[list[Piece]] = []
    left: list[int] = []
    for piece in pieces:
        size = len(piece.tokens)
        fitting = [at for at in range(len(rows)) if left[at] >= size]
        if fitting:
            at = min(fitting, key=left.__getitem__)
        else:
            if len(rows) == most_open:
                fullest = left.index(min(left))
                left.pop(fullest)
                yield rows.pop(fullest)
            rows.append([])
            left.append(context)
            at = len(rows) - 1
        rows[at].append(piece)
        left[at] -= size
    yield from rows


def _shuffled(documents: Iterable[Document], rng: Random) -> Iterator[Document]:
    held: list[Document] = []
    for document in documents:
        held.append(document)
        if len(held) == _SHUFFLE:
            rng.shuffle(held)
            yield from held
            held = []
    rng.shuffle(held)
    yield from held


def _encode(document: Document, tokenizer: Tokenizer, assistant_only: bool) -> Piece:
    if isinstance(document, str):
        tokens = tokenizer(document, add_special_tokens=True, verbose=False)["input_ids"]
        return Piece(np.array(tokens, np.int32), np.full(len(tokens), not assistant_only))
    if tokenizer.chat_template is None:
        raise RetainError("the data hold conversations, and the base model has no chat template to write them with")
    text = _rendered(tokenizer, document)
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    tokens = np.array(encoding["input_ids"], np.int32)
    if not assistant_only:
        return Piece(tokens, np.ones(len(tokens), bool))
    said = np.zeros(len(text) + 1, bool)
    for start, stop in _replies(document, text, tokenizer):
        said[start:stop] = True
    starts = np.array([start for start, _ in encoding["offset_mapping"]], int)
    return Piece(tokens, said[starts])


def _replies(messages: list[Message], text: str, tokenizer: Tokenizer) -> Iterator[tuple[int, int]]:
    """Where in the rendered text the assistant's messages are, each with the marker that ends it.

    A template may write earlier messages another way once others follow, or refuse the beginning of a conversation; those
    cannot be found and do not count.
    """
    for at, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        try:
            before = _rendered(tokenizer, messages[:at], add_generation_prompt=True) if at else ""
            after = _rendered(tokenizer, messages[: at + 1])
        except RetainError:  # it takes the conversation, and not the part of it
            continue
        if text.startswith(before) and text.startswith(after):
            yield len(before), len(after.rstrip())


def _rendered(tokenizer: Tokenizer, messages: list[Message], add_generation_prompt: bool = False) -> str:
    """The text of a conversation; RetainError where the base model's chat template refuses it."""
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    except (TemplateError, TypeError, ValueError, RetainError) as error:
        begins = " ".join(messages[0]["content"].split())[:40] if messages else ""
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RetainError(
            f"the base model's chat template refuses the conversation that begins with '{begins}': {reason}"
        ) from None
