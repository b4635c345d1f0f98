"""`retain-local chat`: the loop between a user and a session."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, RenderableType
from rich.markup import escape

from ..errors import RetainError
from ..terminal.progress import PromptProgress
from ..terminal.safe_text import safe_text
from ..terminal.stderr import stderr_console
from ..terminal.text_output import TextOutput
from .entry import Entry
from .input import ChatInput
from .session import Session
from .slash_commands import COMMANDS, ExitChat, run_command
from .stats import stats_line


class ChatUI:
    """Reads messages and commands, prints replies.

    Replies and what commands show go to stdout; notes, the line after each reply, errors and progress go to stderr.
    When stdin is not a terminal each line of it is a message, so that a chat can be scripted.

    Attributes
    ----------
    saved_as : Path or None
        The file that holds the conversation as it was at some time.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.input = ChatInput(
            [name for command in COMMANDS for name in (command.name, *command.aliases)],
            [command.name for command in COMMANDS if command.takes_file],
        )
        self.out = Console(highlight=False)
        self.saved_as: Path | None = None
        self._saved_tokens: list[int] = []
        self._progress = PromptProgress()
        self._failed = False
        session.llm.on_prompt = self._progress

    def run(self) -> int:
        """Chat until the input ends; returns the exit status, 1 when a line of a script failed."""
        if self.session.template.is_plain:
            self.note("the model has no chat template: using plain 'User:' and 'Assistant:' lines")
        if self.input.is_terminal:
            self.note("/help lists the commands, Ctrl-D leaves")
        try:
            for entry in self.input.entries():
                self._take(entry)
        except ExitChat:
            pass
        return int(self._failed and not self.input.is_terminal)

    def _take(self, entry: Entry) -> None:
        try:
            if entry.is_command:
                run_command(self, entry.text)
            else:
                self.reply(self.session.send(entry.text))
        except RetainError as error:
            self._failed = True
            stderr_console().print(f"[red]error:[/] {escape(safe_text(str(error)))}")
        except KeyboardInterrupt:
            if not self.input.is_terminal:
                raise
            self.note("(stopped)")

    def reply(self, pieces: Iterator[str]) -> None:
        """Print a reply as it is written, and the line about it. Ctrl-C stops it and keeps what was written."""
        output = TextOutput()
        begun = stopped = False
        try:
            for piece in pieces:
                output.write(piece)
                begun = True
            begun = True  # an empty reply is a reply
        except KeyboardInterrupt:
            if not self.input.is_terminal:
                raise
            stopped = True
        finally:
            self._progress.close()
            if begun:
                output.end()
            pieces.close()  # a reply that was stopped here is kept now, not when it is collected
        if stopped and not begun:
            self.note("(stopped before the reply began)")
            return
        if stopped:
            self.note("(stopped)")
        llm = self.session.llm
        width = stderr_console().width if sys.stderr.isatty() else None
        self.note(stats_line(self.session.last, llm.retention.stats(), llm.n_ctx(), width))

    def restart(self, system: str) -> None:
        """Begin a new conversation, which is in no file."""
        self.session.restart(system)
        self.saved_as = None

    def is_saved_as(self, path: Path) -> None:
        """Note that a file holds the conversation as it is now."""
        self.saved_as, self._saved_tokens = path, list(self.session.tokens)

    def may_drop_conversation(self) -> bool:
        """Whether the conversation may be lost: it is in a file, there is none yet, or the user says so."""
        tokens = self.session.tokens
        is_saved = self.saved_as is not None and tokens == self._saved_tokens
        return not tokens or is_saved or self.input.confirm("This drops the conversation. Go on?")

    def show(self, renderable: RenderableType) -> None:
        """Print what a command was asked for."""
        self.out.print(renderable)

    def note(self, text: str) -> None:
        """Print a remark."""
        stderr_console().print(f"[dim]{escape(safe_text(text))}[/]")
