"""Where a completion ends at the latest: after the tokens that were asked for, or at the end of the context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class TokenLimit:
    """The limit of one completion, as a stopping criterion of the bindings.

    The bindings count tokens only between whole characters. A character of several tokens at the end runs over what was
    asked for; at the end of the context there is no next token, and all of the text was lost. A criterion that holds when
    the tokens are used up makes them return what there is.

    Parameters
    ----------
    max_tokens : as in `create_completion`: None, 0 and less are no limit but the context.
    criterion : the caller's own.

    Attributes
    ----------
    n_left : int or None
        Tokens that may still be written; None before a prompt is known.
    was_reached : bool
        Whether a token more than there may be was asked for.
    """

    def __init__(self, max_tokens: int | None, criterion: Callable[..., bool] | None) -> None:
        self._max_tokens, self._criterion = max_tokens, criterion
        self.n_left: int | None = None
        self.was_reached = False

    def begin(self, room: int) -> None:
        """A text begins, with room for so many tokens in the context."""
        self.n_left = min(self._max_tokens, room) if self._max_tokens and self._max_tokens > 0 else room

    def take(self) -> bool:
        """Count a token that is asked for; whether it may be written."""
        assert self.n_left is not None
        self.was_reached = self.n_left == 0
        self.n_left -= not self.was_reached
        return not self.was_reached

    def __call__(self, *arguments: Any) -> bool:
        return self.was_reached or (self._criterion is not None and self._criterion(*arguments))

    def mark(self, completion: dict[str, Any]) -> dict[str, Any]:
        """A completion, or a chunk of one, with the reason why it ended."""
        if self.was_reached:
            for choice in completion["choices"]:
                if choice["finish_reason"] is not None:
                    choice["finish_reason"] = "length"
        return completion
