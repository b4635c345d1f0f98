"""Finding the system message in a prompt, to pin it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_ROLES = ("system", "developer")
_HEADER_TOKENS = 256  # most that a template puts before the system message

logger = logging.getLogger("retain_local")


def system_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """Text of the system message that a chat begins with; "" when it has none, or none that is text."""
    first = messages[0] if messages else {}
    content = first.get("content")
    return content.strip() if first.get("role") in _ROLES and isinstance(content, str) else ""


def system_length(tokens: Sequence[int], text: str, to_bytes: Callable[[Sequence[int]], bytes]) -> int:
    """Tokens from the start of a prompt to the end of its system message; 0 without one.

    Parameters
    ----------
    tokens : the whole prompt.
    text : the system message.
    to_bytes : the text of tokens, special tokens included.
    """
    if not text:
        return 0
    wanted = text.encode()
    head = tokens[: len(wanted) + _HEADER_TOKENS]  # a token is a byte at least
    pieces = [to_bytes([token]) for token in head]
    start = b"".join(pieces).find(wanted)
    if start < 0:
        logger.warning("the chat template changes the system message, so it is not pinned")
        return 0
    end, length = 0, 0
    while end < start + len(wanted):
        end += len(pieces[length])
        length += 1
    return length
