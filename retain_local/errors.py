"""Errors that a caller is meant to see."""

from __future__ import annotations

import copyreg
from typing import Any


class RetainError(Exception):
    """Something that was asked for cannot be done; the message is one line that says what and why."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))  # names from a file may hold line breaks

    def __reduce__(self) -> tuple[Any, ...]:
        """From one process to another: without a call of `__init__`, which takes more in some errors."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class UsageError(RetainError):
    """The arguments themselves are wrong, whatever the files and the machine: the command line exits with 2."""


class ContextFullError(RetainError):
    """A text does not fit the context; `n_tokens` is its length."""

    def __init__(self, message: str, n_tokens: int) -> None:
        super().__init__(message)
        self.n_tokens = n_tokens
