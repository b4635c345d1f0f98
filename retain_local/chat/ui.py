"""`retain-local chat`: the loop between a user and a session."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path

from rich.console import Console, RenderableType
from rich.markup import escape

from ..errors import ContextFullError, RetainError
from ..terminal.progress import PromptProgress
from ..terminal.safe_text import safe_text
from ..terminal.stderr import stderr_console
from ..terminal.suspension import watch_suspension
from ..terminal.text_output import TextOutput
from .context_size import change_context, full_context, goes_beyond_training, longer_context
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
        self.out = Console(highlight=False, emoji=False)
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
                self._send(entry.text)
        except RetainError as error:
            self._failed = True
            stderr_console().print(f"[red]error:[/] {escape(safe_text(str(error)))}")
        except KeyboardInterrupt:
            if not self.input.is_terminal:
                raise
            self.note("(stopped)")

    def _send(self, text: str) -> None:
        try:
            self.reply(self.session.send(text))
        except ContextFullError as error:
            if not self._is_given_longer_context(error.n_tokens):
                raise RetainError(full_context(self.session.llm, error.n_tokens)) from None
            self.reply(self.session.send(text))

    def _is_given_longer_context(self, n_tokens: int) -> bool:
        """Ask whether to go on in a context that a text of `n_tokens` fits, and do so."""
        llm = self.session.llm
        longer = longer_context(llm, n_tokens)
        doubt = (
            " Beyond what the model was trained for its text may get worse."
            if goes_beyond_training(llm, longer)
            else ""
        )
        question = f"The context of {llm.n_ctx():,} tokens is full. Go on with {longer:,}?{doubt}"
        if not self.input.confirm(question, usual=True, unasked=False):
            return False
        change_context(llm, n_ctx=longer)
        return True

    def reply(self, pieces: Generator[str, None, None]) -> None:
        """Print a reply as it is written, and the line about it. Ctrl-C stops it and keeps what was written."""
        with watch_suspension() as was_suspended:
            if self._is_written(pieces):
                self._tell_of_reply(is_timed=not was_suspended())

    def _is_written(self, pieces: Generator[str, None, None]) -> bool:
        """Print a reply; false when it was stopped before it began."""
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
            return False
        if stopped:
            self.note("(stopped)")
        return True

    def _tell_of_reply(self, is_timed: bool) -> None:
        """Print the line about the last reply, and go on with one that the context cut where the user wants that."""
        llm = self.session.llm
        assert self.session.last is not None
        width = stderr_console().width if sys.stderr.isatty() else None
        self.note(stats_line(self.session.last, llm.retention.stats(), llm.n_ctx(), width, is_timed=is_timed))
        if self.session.is_cut():
            if self._is_given_longer_context(len(self.session.tokens)):
                self.reply(self.session.go_on())
            else:
                self.note(f"(cut: {full_context(llm, len(self.session.tokens))})")

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

    def warn(self, text: str) -> None:
        """Print a warning."""
        stderr_console().print(f"[yellow]{escape(safe_text(text))}[/]")
