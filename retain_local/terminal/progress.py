"""Progress on the terminal while a model loads and a long prompt is read."""

from __future__ import annotations

import time
from contextlib import ExitStack

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from .safe_text import safe_line
from .stderr import BarConsole, below_lines, stderr_console

_SHORT_PROMPT = 128  # tokens that are read too soon for a bar
_LINE_EVERY_S = 60  # where a line takes the place of a bar


class _Rate(ProgressColumn):
    """Tokens each second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} tok/s" if speed else "", style="progress.data.speed")


class _Bar:
    """A bar on stderr that vanishes when it is done, with columns behind it; nothing where stderr is not a terminal."""

    def __init__(self, *columns: ProgressColumn) -> None:
        self._console = BarConsole(stderr=True, highlight=False, emoji=False)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            *columns,
            console=self._console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._shown = ExitStack()
        self._task: TaskID | None = None

    def show(self, label: str, done: float, total: float) -> None:
        if not self._console.is_terminal:
            return
        if self._task is None:
            self._progress.start()
            self._shown.enter_context(below_lines(self._console))
            self._task = self._progress.add_task(label, total=total)
        self._progress.update(self._task, completed=done, total=total)

    def hide(self) -> None:
        if self._task is not None:
            self._shown.close()
            self._progress.stop()
            self._progress.remove_task(self._task)
            self._task = None


class LoadProgress:
    """Context manager for loading a model: call it with the fraction loaded."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> LoadProgress:
        self._bar = _Bar(TextColumn("{task.percentage:.0f}%"))
        self(0.0)
        return self

    def __call__(self, fraction: float) -> None:
        self._bar.show(safe_line(f"loading {self._name}"), fraction, 1.0)

    def __exit__(self, *_: object) -> None:
        self._bar.hide()


class PromptProgress:
    """Shows a long prompt being read: call it with (tokens read, tokens to read); it vanishes with the last one."""

    def __init__(self) -> None:
        self._bar = _Bar(MofNCompleteColumn(), _Rate())

    def __call__(self, done: int, total: int) -> None:
        if done < total and total >= _SHORT_PROMPT:
            self._bar.show("reading the prompt", done, total)
        else:
            self.close()

    def close(self) -> None:
        """Take the bar away, wherever it stands."""
        self._bar.hide()


class AuditProgress:
    """Context manager around the reading of long texts: call it with (tokens read, tokens to read)."""

    def __init__(self, label: str = "reading the texts") -> None:
        self._label = label

    def __enter__(self) -> AuditProgress:
        self._bar = _Bar(
            TextColumn("{task.percentage:.0f}%"),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        return self

    def __call__(self, done: int, total: int) -> None:
        self._bar.show(self._label, done, total)

    def __exit__(self, *_: object) -> None:
        self._bar.hide()


class EvalProgress:
    """Context manager around many pieces of work: a bar with the time left.

    Parameters
    ----------
    done, total : pieces that were done before, and all of them.
    """

    def __init__(self, done: int, total: int) -> None:
        console = self._console = BarConsole(stderr=True, highlight=False, emoji=False)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            speed_estimate_period=600,  # seconds; pieces differ
        )
        self._task = self._progress.add_task("", completed=done, total=total)

    def __enter__(self) -> EvalProgress:
        self._shown = ExitStack()
        self._shown.enter_context(self._progress)
        if self._console.is_terminal:
            self._shown.enter_context(below_lines(self._console))
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.close()

    def label(self, text: str = "") -> None:
        """Say what is worked on."""
        self._progress.update(self._task, description=text)

    def advance(self, text: str) -> None:
        """One more piece is done, and what is worked on next."""
        self._progress.update(self._task, advance=1, description=text)


class BenchProgress:
    """Context manager around a measurement of so many steps: a bar with what is done, or lines where stderr is no terminal.

    A deep cache takes hours to fill, so a log gets a line at once and then one a minute at most.
    """

    def __init__(self, total: int) -> None:
        console = BarConsole(stderr=True)
        self._is_terminal, self._next_line = console.is_terminal, 0.0
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("loading", total=total)

    def __enter__(self) -> BenchProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, what: str, n_steps: int) -> None:
        """Say what is done now, and how many steps are begun with it."""
        self._progress.update(self._task, description=what, advance=n_steps)
        if not self._is_terminal and time.monotonic() >= self._next_line:
            stderr_console().print(what, markup=False)
            self._next_line = time.monotonic() + _LINE_EVERY_S
