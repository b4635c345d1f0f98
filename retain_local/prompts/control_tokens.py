"""Control tokens that stand in messages as text.

A control token such as `<|im_end|>` ends a turn where the chat template writes it. In a message it is text: whoever
types it must not be able to end their turn and write another one as the system. So that the tokenizer can tell the two
apart, every control token in a message is hidden behind a character of a private use area while the template is
rendered. No message holds that character, and no template takes it for anything but a letter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..bindings import llama_cpp
from ..errors import RetainError

if TYPE_CHECKING:
    from ..llama import Llama

_HIDDEN_ATTRIBUTES = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
_PRIVATE_USE = range(0xF0000, 0xFFFFE)
BEGINNINGS = (1, 2, 3)  # characters
_NAMES = ("role", "type")  # what a template compares with words of its own

Marks = Mapping[int, str]  # code point of a mark -> the control token's text, as str.translate takes it


class ControlTokens:
    """The control tokens of a vocabulary, and how text around them is cut for the tokenizer."""

    def __init__(self, llm: Llama) -> None:
        vocab = llm._model.vocab
        self._attributes: dict[str, int] = {}
        for token in range(llm.n_vocab()):
            attributes = llama_cpp.llama_vocab_get_attr(vocab, token)
            if attributes & _HIDDEN_ATTRIBUTES:
                text = llama_cpp.llama_vocab_get_text(vocab, token).decode("utf-8", errors="replace")
                if text:
                    self._attributes[text] = attributes
        # the longest first, as llama.cpp takes them out
        texts = sorted(self._attributes, key=len, reverse=True)
        self._pattern = _one_of(texts)
        self._beginnings = [_one_of({text[:n] for text in texts}) for n in BEGINNINGS]

    def hide(self, messages: Sequence[Mapping[str, Any]]) -> tuple[list[Any], Marks]:
        """The messages with a mark for each control token in their texts, and what the marks stand for.

        Raises
        ------
        RetainError : the messages hold every character that could be a mark.
        """
        return _hide(messages, self._pattern)

    def hide_beginnings(self, messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[list[Any], Marks]]:
        """As `hide`, with a mark for whatever a control token could begin with: its first character, its first two."""
        return (_hide(messages, pattern) for pattern in self._beginnings)

    def pieces(self, text: str, marks: Marks) -> list[tuple[str, bool]]:
        """A rendered text in pieces, each with whether control tokens are to be found in it.

        A piece in which they are not is a whole run of text between two control tokens of the template, so that its
        other tokens are what they would be.
        """
        if not any(chr(code) in text for code in marks):
            return [(text, True)]
        marked = re.compile(f"[{''.join(map(chr, marks))}]")
        found, pending = [], ""
        parts = ["", *self._pattern.split(text), ""]  # texts at odd places, control tokens between them
        for before, part, after in zip(parts[::2], parts[1::2], parts[2::2]):
            pending += before
            if not marked.search(part):
                pending += part
                continue
            # such tokens take the white space beside them away
            if self._attributes.get(before, 0) & llama_cpp.LLAMA_TOKEN_ATTR_RSTRIP:
                part = part.lstrip()
            if self._attributes.get(after, 0) & llama_cpp.LLAMA_TOKEN_ATTR_LSTRIP:
                part = part.rstrip()
            found += [(pending, True), (part.translate(marks), False)]
            pending = ""
        return [piece for piece in [*found, (pending, True)] if piece[0]]


def _one_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches each of the texts, the first of them first; nothing where there are none."""
    return re.compile(f"({'|'.join(map(re.escape, texts)) or '(?!)'})")


def _hide(messages: Sequence[Mapping[str, Any]], pattern: re.Pattern[str]) -> tuple[list[Any], Marks]:
    texts = list(message_texts(messages))
    found = sorted({match for text in texts for match in pattern.findall(text)})
    if not found:
        return list(messages), {}
    used = set().union(*texts)
    free = [code for code in _PRIVATE_USE if chr(code) not in used][: len(found)]
    if len(free) < len(found):
        raise RetainError("the messages use every character of a private use area; leave some of them out")
    mark_of = {text: chr(code) for code, text in zip(free, found)}
    hidden = _map_texts(list(messages), lambda text: pattern.sub(lambda match: mark_of[match[0]], text))
    return hidden, dict(zip(free, found))


def message_texts(value: Any) -> Iterator[str]:
    """Every text in messages: contents, their parts, arguments of tool calls."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if name not in _NAMES:
                yield from message_texts(item)
    elif isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        for item in value:
            yield from message_texts(item)


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of messages with every text of `message_texts` changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: item if name in _NAMES else _map_texts(item, change) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_map_texts(item, change) for item in value]
    return value
