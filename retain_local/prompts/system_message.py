"""Where the system message stands in a prompt, to pin it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .chat_format import new_word

_ROLES = ("system", "developer")
_HEADER_TOKENS = 32  # what a template writes before the system message is pinned with it up to here
_MOST_CHANGED = 64  # tokens beside the message that may change with it, as a line that says how to think

logger = logging.getLogger("retain_local")


def system_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """Text of the system message that a chat begins with; "" when it has none, or none that is text."""
    first = messages[0] if messages else {}
    content = first.get("content")
    return content.strip() if first.get("role") in _ROLES and isinstance(content, str) else ""


def system_range(
    messages: Sequence[Mapping[str, Any]], to_prompt: Callable[[Sequence[Mapping[str, Any]]], Sequence[int]]
) -> tuple[int, int]:
    """Tokens [start, stop) of the system message in the prompt of a conversation; (0, 0) without one.

    It is where the prompt changes when the message does. A short header before it counts as part of it.

    Parameters
    ----------
    to_prompt : the tokens of a conversation.
    """
    text = system_text(messages)
    if not text:
        return 0, 0
    word = new_word(messages, unlike=text)
    tokens, other = to_prompt(messages), to_prompt([{**messages[0], "content": word}, *messages[1:]])
    start = _common_length(tokens, other)
    end = _common_length(tokens[start:][::-1], other[start:][::-1])
    length, other_length = len(tokens) - start - end, len(other) - start - end
    if not length or not other_length:
        logger.warning("the chat template leaves the system message out, so there is none to pin")
        return 0, 0
    if other_length > len(word) + _MOST_CHANGED:
        logger.warning("the chat template writes the system message in several places, so it is not pinned")
        return 0, 0
    if 0 < start <= _HEADER_TOKENS:
        others = [{**message, "content": word} for message in messages[1:]]
        if _common_length(tokens, to_prompt([messages[0], *others])) >= start:
            start, length = 0, start + length  # no other message stands before it
    return start, start + length


def _common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    return next((at for at, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
