"""Text that is written to a terminal piece by piece, with its lines broken between words."""

from __future__ import annotations

from collections.abc import Callable

from rich.cells import cell_len

_TAB = 8


class WordWrap:
    """Breaks lines between words while a text comes in: a word that does not fit is moved to the next line.

    Nothing is held back, so that every piece is on the screen as soon as it is written. Characters that take two
    columns, as Chinese ones do, may be parted from each other.

    Parameters
    ----------
    columns : gives the width of the terminal, which may change while the text is written.
    """

    def __init__(self, columns: Callable[[], int]) -> None:
        self._columns = columns
        self._column = 0
        self._word = ""  # the end of the line, from its last space

    def __call__(self, piece: str) -> str:
        """What to write to the terminal for the next piece of the text, which holds no control codes but \\n and \\t."""
        # after the last column terminals disagree where the cursor is, so that column stays free
        width = max(1, self._columns() - 1)
        return "".join(self._place(char, width) for char in piece)

    def _place(self, char: str, width: int) -> str:
        if char == "\n":
            self._column, self._word = 0, ""
            return char
        if char == "\t":
            char = " " * (_TAB - self._column % _TAB)
        size = cell_len(char)
        if char.isspace():
            self._word = ""
            if self._column + size > width:
                self._column = width  # the space stands for the end of the line, which the next word makes
                return ""
        elif self._column + size > width:
            return self._break(char, size, width)
        else:
            self._word = "" if size > 1 else self._word + char
        self._column += size
        return char

    def _break(self, char: str, size: int, width: int) -> str:
        """Begin a new line with a character, and with the word that it belongs to where that does not fill a line."""
        word, length = self._word, cell_len(self._word)
        if size > 1 or length >= self._column or length + size > width:
            word, length = "", 0
        back = f"\x1b[{length}D\x1b[K" if word else ""
        self._column, self._word = length + size, "" if size > 1 else word + char
        return f"{back}\n{word}{char}"
