"""Errors that a caller is meant to see."""


class RetainError(Exception):
    """Something that was asked for cannot be done; the message is one line that says what and why."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))  # names from a file may hold line breaks


class UsageError(RetainError):
    """The arguments themselves are wrong, whatever the files and the machine: the command line exits with 2."""


class ContextFullError(RetainError):
    """A text does not fit the context; `n_tokens` is its length."""

    def __init__(self, message: str, n_tokens: int) -> None:
        super().__init__(message)
        self.n_tokens = n_tokens
