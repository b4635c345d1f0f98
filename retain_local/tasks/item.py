"""What every generated task makes: a conversation, questions about it, and when a reply is right."""

from __future__ import annotations

import re
from dataclasses import dataclass

ACKNOWLEDGEMENT = "Understood."

Turn = tuple[str, str]


@dataclass(frozen=True)
class Question:
    """A question, the reply that is wanted, and what a right reply must hold.

    Attributes
    ----------
    text, answer : str
    values : tuple of tuple of str
        A reply is right if it holds one wording of each value.
    """

    text: str
    answer: str
    values: tuple[tuple[str, ...], ...]

    def is_right(self, reply: str) -> bool:
        """Whether the reply holds every value, as whole words, whatever the case and the punctuation."""
        words = f" {_words(reply)} "
        return all(any(f" {_words(wording)} " in words for wording in value) for value in self.values)

    def score(self, reply: str) -> float:
        """1 for a right reply, else 0."""
        return float(self.is_right(reply))


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


@dataclass(frozen=True)
class Item:
    """One conversation and the questions about it. Each question is asked of the same state, after the last turn.

    Attributes
    ----------
    turns : tuple of (role, content)
        Begins with ``user`` and ends with ``assistant``.
    questions : tuple of Question
    """

    turns: tuple[Turn, ...]
    questions: tuple[Question, ...]

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns as chat messages."""
        return [{"role": role, "content": content} for role, content in self.turns]


def count_words(text: str) -> int:
    """Words, digits and punctuation marks: the tokens of a text for a tokenizer that knows all of its words."""
    return len(re.findall(r"[^\W\d_]+|\d|[^\w\s]+", text))
