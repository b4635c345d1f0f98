"""Lines on stderr, which do not get into a progress bar that is shown there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

_with_bars: list[Console] = []  # consoles that show a bar now


class BarConsole(Console):
    """A console for progress bars. It leaves the cursor visible: a program that is suspended or killed while it shows a
    bar would leave the shell without one."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


def stderr_console() -> Console:
    """Where to print a line on stderr: above the bar that is shown, if there is one.

    At a terminal lines are broken between words; elsewhere every line stays one.
    """
    if _with_bars:
        return _with_bars[-1]
    return Console(stderr=True, highlight=False, emoji=False, soft_wrap=not sys.stderr.isatty())


@contextmanager
def below_lines(console: Console) -> Iterator[None]:
    """In the block the console shows a bar, and lines on stderr are to be printed with it, above the bar."""
    _with_bars.append(console)
    try:
        yield
    finally:
        _with_bars.remove(console)
