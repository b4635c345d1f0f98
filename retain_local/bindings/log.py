"""What llama.cpp logs: shown when verbose, and kept for error messages when not.

llama.cpp says why a model cannot be loaded only in its log. The bindings install a callback that takes warnings for
errors and drops errors; this one replaces it.
"""

from __future__ import annotations

import ctypes
import logging
import re
import sys
from collections import deque

from . import llama_cpp

ERROR, CONTINUED = 4, 5

_bindings_log = logging.getLogger("llama-cpp-python")
_errors: deque[str] = deque(maxlen=16)
_last_level = 0


@llama_cpp.llama_log_callback
def _on_log(level: int, text: bytes, user_data: int) -> None:
    global _last_level
    line = text.decode("utf-8", errors="replace")
    if level == CONTINUED:
        level = _last_level
    _last_level = level
    if level == ERROR and line.strip():
        _errors.append(line.strip())
    if _bindings_log.level <= logging.DEBUG:  # what the bindings' own verbose flag sets
        print(line, end="", flush=True, file=sys.stderr)


def install() -> None:
    """Take over llama.cpp's log. Idempotent."""
    llama_cpp.llama_log_set(_on_log, ctypes.c_void_p(0))


def forget_errors() -> None:
    """Drop the errors so far, before a call whose own errors matter."""
    _errors.clear()


def first_error() -> str | None:
    """The first error since `forget_errors`, without the name of the function that logged it; None when none was."""
    return re.sub(r"^\w+: (error loading model: )?", "", _errors[0]) if _errors else None
