"""What llama.cpp logs: shown when verbose, and kept for error messages when not.

llama.cpp says why a model cannot be loaded only in its log. The bindings install a callback that takes warnings for
errors and drops errors; this one replaces it.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import re
import sys
import threading
from collections import deque
from collections.abc import Callable

from ..terminal.safe_text import safe_text
from . import llama_cpp

ERROR, CONTINUED = 4, 5

_bindings_log = logging.getLogger("llama-cpp-python")


class _Heard(threading.local):
    """What was logged in one thread: models may be loaded in several at once."""

    def __init__(self) -> None:
        self.errors: deque[str] = deque(maxlen=16)
        self.level = 0


_heard = _Heard()


def _on_log(level: int, text: bytes, _user: int, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
    if is_ending():  # globals of this module may be gone
        return
    line = text.decode("utf-8", errors="replace")
    if level == CONTINUED:
        level = _heard.level
    _heard.level = level
    if level == ERROR and line.strip():
        _heard.errors.append(line.strip())
    if sys.stderr is not None and _bindings_log.level <= logging.DEBUG:  # what the bindings' own verbose flag sets
        with contextlib.suppress(OSError, ValueError):  # a stderr that is full or closed
            print(safe_text(line), end="", flush=True, file=sys.stderr)


_callback = llama_cpp.llama_log_callback(_on_log)
# llama.cpp keeps the pointer, and logs while the interpreter ends: what it points at is never freed
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_callback))


class _LastWord:
    """Takes the callback out when the interpreter clears this module: from then on nothing may call into Python."""

    def __init__(self) -> None:
        self.setters: list[Callable[..., None]] = [llama_cpp.llama_log_set]
        # any native function that only returns a constant; without a callback llama.cpp would print
        self._silence = ctypes.cast(llama_cpp.llama_supports_mmap, llama_cpp.llama_log_callback)
        self._null = ctypes.c_void_p(0)

    def __del__(self) -> None:
        for set_callback in self.setters:
            set_callback(self._silence, self._null)


_last_word = _LastWord()


def install() -> None:
    """Take over llama.cpp's log. Idempotent."""
    llama_cpp.llama_log_set(_callback, ctypes.c_void_p(0))


def install_for_pictures(set_callback: Callable[..., None]) -> None:
    """Take over the log of the library for pictures, which has one of its own."""
    _last_word.setters.append(set_callback)
    set_callback(_callback, ctypes.c_void_p(0))


def forget_errors() -> None:
    """Drop the errors so far in this thread, before a call whose own errors matter."""
    _heard.errors.clear()


def first_error() -> str | None:
    """The first error in this thread since `forget_errors`, without the name of the function that logged it, or None."""
    return re.sub(r"^\w+: (error loading model: )?", "", _heard.errors[0]) if _heard.errors else None
