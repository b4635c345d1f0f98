"""Reading what a user says: at a terminal with editing and history, or line by line from a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import RetainError
from ..paths import data_dir


def read_messages(interactive: bool, words: Sequence[str] = ()) -> Iterator[str]:
    """Messages until the input ends, without empty ones.

    Parameters
    ----------
    interactive : edit lines at a terminal: Enter sends, Alt+Enter or a backslash at the end of a line goes on with
        another one, Ctrl-C drops the line, Ctrl-D ends. Otherwise each line of stdin is a message, and a backslash at
        its end joins the next line to it.
    words : what Tab completes at the beginning of a line.
    """
    lines = _terminal_lines(words) if interactive else _piped_lines()
    message: list[str] = []
    for line in lines:
        if line is None:  # Ctrl-C
            message.clear()
        elif line.endswith("\\"):
            message.append(line[:-1])
        else:
            text = "\n".join([*message, line]).strip()
            message.clear()
            if text:
                yield text
    if message:
        yield "\n".join(message)


def _piped_lines() -> Iterator[str]:
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise RetainError(f"line {number} of stdin is not UTF-8 text") from None


def _terminal_lines(words: Sequence[str]) -> Iterator[str | None]:
    """Lines typed at the terminal; None where Ctrl-C dropped one."""
    session = _prompt_session(words)
    while True:
        try:
            yield session.prompt("> ")
        except KeyboardInterrupt:
            yield None
        except EOFError:
            return


def _prompt_session(words: Sequence[str]) -> Any:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def _send(event: Any) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _new_line(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    return PromptSession(
        history=FileHistory(str(data_dir() / "history")),
        completer=WordCompleter(list(words), sentence=True),
        complete_while_typing=False,
        key_bindings=keys,
        multiline=True,
        prompt_continuation="  ",
    )
