"""Whether a program was suspended, as by Ctrl-Z, while it measured a time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def watch_suspension() -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether the program was suspended since the block began.

    It is always false outside the main thread, and where programs cannot be suspended.
    """
    happened = False

    def note(*_: object) -> None:
        nonlocal happened
        happened = True

    can_watch = hasattr(signal, "SIGCONT") and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGCONT, note) if can_watch else None
    try:
        yield lambda: happened
    finally:
        if can_watch:
            signal.signal(signal.SIGCONT, before)
