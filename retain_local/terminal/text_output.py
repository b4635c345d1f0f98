"""What a model writes, on its way to stdout."""

from __future__ import annotations

import os
import sys

from .safe_text import safe_text
from .word_wrap import WordWrap

_USUAL_COLUMNS = 80


class TextOutput:
    """Writes the text of a model to stdout, piece by piece.

    A file or a pipe gets it as it is. A terminal gets no control codes from a model, and lines that are broken between
    words.
    """

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._wrap = WordWrap(_columns) if self._is_terminal and os.environ.get("TERM") != "dumb" else None

    def write(self, piece: str) -> None:
        """Write the next piece of the text."""
        if self._is_terminal:
            piece = safe_text(piece)
        if self._wrap is not None:
            piece = self._wrap(piece)
        sys.stdout.write(piece)
        sys.stdout.flush()

    def end(self) -> None:
        """End the text, and its last line."""
        sys.stdout.write("\n")
        sys.stdout.flush()


def _columns() -> int:
    """Width of the terminal that stdout is."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _USUAL_COLUMNS
    except OSError:
        return _USUAL_COLUMNS
