"""Text that a file, a model or the network decides, made safe to show.

A terminal obeys what it is sent: an escape sequence can move the cursor, rename the window or rewrite what stands above.
Whatever comes from outside goes through here before it is printed, alone or in a table.
"""

from __future__ import annotations

import re

_MARK = "\N{REPLACEMENT CHARACTER}"

# Control characters of ASCII and Latin-1 but newline and tab, the invisible characters that turn the order of what is
# shown, line separators that are no newline, and halves of characters that no encoding can write.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def safe_text(text: str) -> str:
    """The text with a replacement character for each character that a terminal would obey instead of showing it.

    Newlines and tabs stay; a carriage return is left out. Each character is looked at on its own, so a text that comes
    in parts can be given part by part.
    """
    if _UNSAFE.search(text) is None:
        return text
    return _UNSAFE.sub(_MARK, text.replace("\r", ""))


def safe_line(text: str) -> str:
    """`safe_text` on one line: every run of white space becomes a space."""
    return " ".join(safe_text(text).split())
