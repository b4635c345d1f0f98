"""Reading what a user says: at a terminal with editing and history, or line by line from a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import RetainError
from ..paths import data_dir
from .entry import Entry, entries_of_lines, is_open_block
from .history import PrivateHistory

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

_PROMPT = "> "


class ChatInput:
    """Where the entries of a chat come from.

    Parameters
    ----------
    commands : what Tab completes at the beginning of a line.
    file_commands : those of them that are followed by the name of a file, which Tab completes too.

    Attributes
    ----------
    is_terminal : bool
        Somebody types: Enter sends, Alt+Enter or a backslash at the end begins a new line, Ctrl-C drops what was typed,
        Ctrl-Z suspends the program, Ctrl-D ends the chat. Otherwise lines of stdin are read, as `entries_of_lines` says.
    """

    def __init__(self, commands: Sequence[str] = (), file_commands: Sequence[str] = ()) -> None:
        self.is_terminal = sys.stdin.isatty()
        # with both outputs in files there is no screen to edit on
        self._edits = self.is_terminal and (sys.stdout.isatty() or sys.stderr.isatty())
        self._commands, self._file_commands = commands, file_commands

    def entries(self) -> Iterator[Entry]:
        """What is said until the input ends, without empty entries."""
        return self._edited_entries() if self._edits else entries_of_lines(_piped_lines())

    def confirm(self, question: str, *, usual: bool = False, unasked: bool = True) -> bool:
        """Whether the user says yes to a question, which is asked until it is answered.

        Parameters
        ----------
        usual : what Enter alone means.
        unasked : the answer where nobody can be asked, as in a script, of which every line is meant.
        """
        if not self._edits:
            return unasked
        from prompt_toolkit import PromptSession
        from prompt_toolkit.output import create_output

        session: PromptSession[str] = PromptSession(output=create_output(always_prefer_tty=True))
        answer = None
        while answer not in ("", "y", "yes", "n", "no"):  # a message that was typed ahead is no answer
            try:
                answer = session.prompt(f"{question} {'[Y/n]' if usual else '[y/N]'} ").strip().lower()
            except (KeyboardInterrupt, EOFError):
                return False
        return answer in ("y", "yes") or (usual and not answer)

    def _edited_entries(self) -> Iterator[Entry]:
        session = self._prompt_session()
        while True:
            try:
                entry = Entry.of(session.prompt(_PROMPT))
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            if entry.text:
                yield entry

    def _prompt_session(self) -> PromptSession[str]:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.output import create_output

        from .completer import CommandCompleter

        return PromptSession(
            history=PrivateHistory(data_dir() / "history"),
            completer=CommandCompleter(self._commands, self._file_commands),
            complete_while_typing=False,
            enable_suspend=True,
            key_bindings=_keys(),
            multiline=True,
            prompt_continuation=" " * len(_PROMPT),
            output=create_output(always_prefer_tty=True),  # stdout may be a file
        )


def _keys() -> Any:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def _send(event: Any) -> None:
        buffer = event.current_buffer
        if is_open_block(buffer.text):
            buffer.insert_text("\n")
        elif buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _new_line(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _piped_lines() -> Iterator[str]:
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise RetainError(f"line {number} of stdin is not UTF-8 text") from None
