"""Documents to calibrate on: texts as tokens, cut to one length, and some of them held out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from ...errors import RetainError

BLOCK = 128  # lengths are multiples of it, or of an eighth of a short context

logger = logging.getLogger("retain_local")


@dataclass(frozen=True)
class Document:
    """A text of one kind that is read from an empty cache.

    kind : as `prose`, or the name of a file.
    tokens : the whole text, with the model's first token (BOS) where it has one.
    """

    kind: str
    tokens: list[int]


@dataclass(frozen=True)
class Plan:
    """How a document is read: the text, a pause that is not counted, and the text's first tokens once more.

    n_text : tokens of the text; n_pause : those between; n_repeat : those that come again, whose cells are judged.
    """

    n_text: int
    n_pause: int

    @property
    def n_repeat(self) -> int:
        return self.n_text // 2

    @property
    def n_all(self) -> int:
        return self.n_text + self.n_pause + self.n_repeat

    @property
    def least_age(self) -> int:
        """How old a cell must be before a query of the text counts for it."""
        return self.n_pause

    @classmethod
    def fitting(cls, n_most: int, n_ctx: int) -> Plan:
        """The plan for texts of at most `n_most` tokens whose reading fits a context.

        Raises
        ------
        RetainError : the context is too short.
        """
        block = BLOCK
        while block > 8 and n_ctx < 8 * block:
            block //= 2
        # 1.5 n_text + block tokens are read
        n_text = min(n_most, (n_ctx - block) * 2 // 3) // (2 * block) * 2 * block
        if n_text < 4 * block:
            raise RetainError(f"a text of {4 * block} tokens at least is read, and its first half once more: too much for"
                              f" a context of {n_ctx} tokens or a text of {n_most}")  # fmt: skip
        return cls(n_text, block)

    def tokens(self, document: Document, separator: Sequence[int]) -> list[int]:
        """All tokens to read, [n_all].

        The pause is what asks for the repetition, and before it as much more text as there is room for; so each token of
        the repetition follows on what it followed on in the text.
        """
        text = document.tokens[: self.n_text]
        head = text[: self.n_repeat]
        asked = list(separator)[: self.n_pause - 1]
        first = head[: self.n_pause - len(asked)]
        # the repetition begins within the pause, whose queries are not counted: it takes a while to catch on
        following = text[len(first) : len(first) + self.n_repeat]
        return [*text, *asked, *first, *following]


def cut(streams: Mapping[str, list[int]], n_text: int, bos: Sequence[int]) -> dict[str, list[Document]]:
    """Documents of n_text tokens from the tokens of each kind, in order; what is left over at an end is dropped."""
    n_own = n_text - len(bos)
    return {
        kind: [Document(kind, [*bos, *tokens[at : at + n_own]]) for at in range(0, len(tokens) - n_own + 1, n_own)]
        for kind, tokens in streams.items()
    }


def take_turns(documents: Mapping[str, list[Document]], n_most: int) -> list[Document]:
    """The first documents, one of each kind after the other."""
    rows = zip_longest(*documents.values())
    return [document for row in rows for document in row if document is not None][:n_most]
