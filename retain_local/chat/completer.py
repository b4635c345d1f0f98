"""What Tab completes in a chat: commands, and the names of files after those that take one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter, WordCompleter
from prompt_toolkit.document import Document


class CommandCompleter(Completer):
    """Completes the first word of a line to a command, and the rest of it to a file.

    Parameters
    ----------
    commands : with their slash.
    file_commands : those that are followed by the name of a file.
    """

    def __init__(self, commands: Sequence[str], file_commands: Sequence[str]) -> None:
        self._first = WordCompleter(list(commands), sentence=True)
        self._files = PathCompleter(expanduser=True)
        self._file_commands = file_commands

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Completions of what stands before the cursor."""
        command, space, rest = document.text_before_cursor.partition(" ")
        if not space:
            return self._first.get_completions(document, complete_event)
        if command in self._file_commands:
            return self._files.get_completions(Document(rest), complete_event)
        return ()
