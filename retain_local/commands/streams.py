"""Standard streams that may be closed, full, or read by nobody any more."""

from __future__ import annotations

import errno
import os
import sys
from io import TextIOWrapper
from typing import Literal

from ..errors import RetainError

_CANNOT_TAKE_MORE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EINVAL}


def open_streams() -> None:
    """Put the null device where a standard stream is closed, so that no file that is opened later takes its place.

    Raises
    ------
    RetainError : stdout is closed: what was asked for would go nowhere.
    """
    is_closed = [_take_place(fd) for fd in range(3)]
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name) or _opened(fd, "r" if fd == 0 else "w")
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
        if fd > 0:
            stream.reconfigure(errors="replace")  # a model writes characters that a terminal may not have
    if is_closed[1]:
        raise RetainError("standard output is closed; send it to a file, or to /dev/null")


def flush_output() -> None:
    """Write what is left of the output; OSError where it cannot be, and then nothing more is tried at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        drop_output()
        raise


def drop_output() -> None:
    """Let what is left of the output go nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def reason(error: OSError) -> str:
    """One line about a file or a stream that failed while no command took care of it."""
    if error.filename is not None:
        return f"{error.filename}: {error.strerror or error}"
    if error.errno in _CANNOT_TAKE_MORE:
        return f"the output cannot be written: {error.strerror}"
    return str(error)


def _take_place(fd: int) -> bool:
    """Whether a descriptor was closed; then it leads to the null device now."""
    try:
        os.fstat(fd)
        return False
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != fd:
            os.dup2(null, fd)
            os.close(null)
        return True


def _opened(fd: int, mode: Literal["r", "w"]) -> TextIOWrapper:
    return open(fd, mode, encoding="utf-8", errors="replace", closefd=False)
