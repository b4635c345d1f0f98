"""`retain-local chat`: the loop between a user and a session."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.markup import escape

from ..errors import RetainError
from ..terminal.progress import PromptProgress
from .input import read_messages
from .session import Session
from .slash_commands import COMMANDS, ExitChat, run_command
from .stats import stats_line


class ChatUI:
    """Reads messages and commands, prints replies.

    Replies and what commands show go to stdout; notes, the line after each reply, errors and progress go to stderr.
    When stdin is not a terminal each line of it is a message, so that a chat can be scripted.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.interactive = sys.stdin.isatty()
        self.out = Console(highlight=False)
        self._err = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress = PromptProgress()
        self._failed = False
        session.llm.on_prompt = self._progress

    def run(self) -> int:
        """Chat until the input ends; returns the exit status, 1 when a line of a script failed."""
        if self.session.template.is_plain:
            self.note("the model has no chat template: using plain 'User:' and 'Assistant:' lines")
        if self.interactive:
            self.note("/help lists the commands, Ctrl-D leaves")
        try:
            for text in read_messages(self.interactive, list(COMMANDS)):
                self._take(text)
        except ExitChat:
            pass
        return int(self._failed and not self.interactive)

    def _take(self, text: str) -> None:
        try:
            if text.startswith("/"):
                run_command(self, text)
            else:
                self.reply(self.session.send(text))
        except RetainError as error:
            self._failed = True
            self._err.print(f"[red]error:[/] {escape(str(error))}")
        except KeyboardInterrupt:
            if not self.interactive:
                raise
            self.note("(stopped)")

    def reply(self, pieces: Iterator[str]) -> None:
        """Print a reply as it is written, and the line about it. Ctrl-C stops it and keeps what was written."""
        begun = stopped = False
        try:
            for piece in pieces:
                sys.stdout.write(self._shown(piece))
                sys.stdout.flush()
                begun = True
            begun = True  # an empty reply is a reply
        except KeyboardInterrupt:
            if not self.interactive:
                raise
            stopped = True
        finally:
            self._progress.close()
            if begun:
                sys.stdout.write("\n")
                sys.stdout.flush()
            pieces.close()  # a reply that was stopped here is kept now, not when it is collected
        if stopped:
            self.note("(stopped)")
        self.note(stats_line(self.session.last, self.session.llm.retention.stats()))

    def _shown(self, piece: str) -> str:
        """A piece of a reply for stdout: a terminal takes no control codes from a model."""
        if not self.out.is_terminal:
            return piece
        return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in piece)

    def show(self, renderable: RenderableType) -> None:
        """Print what a command was asked for."""
        self.out.print(renderable)

    def note(self, text: str) -> None:
        """Print a remark."""
        self._err.print(f"[dim]{escape(text)}[/]")
