"""Text that a user gives: the prompt of `retain-local run`, files of other commands."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

from ..errors import RetainError, UsageError

_LONGEST = 1 << 28  # bytes; a device such as /dev/zero has no end


def read_prompt(prompt: str | None, file: Path | None) -> str:
    """The prompt from the option, the file ("-" for stdin), or stdin where neither is given.

    Raises
    ------
    UsageError : both are given, or neither and stdin is a terminal.
    RetainError : the file cannot be read, is not UTF-8 text, or the prompt is empty.
    """
    if prompt is not None and file is not None:
        raise UsageError("give a prompt with -p or a file with -f, not both")
    if prompt is None and file is None and sys.stdin.isatty():
        raise UsageError("there is no prompt; give one with -p TEXT, -f FILE, or on stdin")
    if prompt is not None and not _is_text(prompt):
        raise UsageError("the prompt is not UTF-8 text")
    if prompt is None:
        prompt = read_text(file or Path("-"))
    if not prompt:
        raise RetainError("the prompt is empty")
    return prompt


def read_text(file: Path) -> str:
    """The text of a file; "-" is stdin.

    Raises
    ------
    RetainError : it cannot be read, has no end, or is not UTF-8.
    """
    from_stdin = str(file) == "-"
    source = "stdin" if from_stdin else str(file)
    try:
        with nullcontext(sys.stdin.buffer) if from_stdin else file.open("rb") as opened:
            content = opened.read(_LONGEST + 1)
        if len(content) > _LONGEST:
            raise RetainError(f"{source} is longer than {_LONGEST >> 20} MiB, the most that is read as one text")
        return content.decode("utf-8")
    except OSError as error:
        raise RetainError(f"{source} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise RetainError(f"{source} is not UTF-8 text (byte {error.start})") from None


def _is_text(argument: str) -> bool:
    """Whether a command line argument was UTF-8: Python keeps other bytes as lone surrogates."""
    return not any("\ud800" <= char <= "\udfff" for char in argument)
