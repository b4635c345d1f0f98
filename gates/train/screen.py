"""`retain-local gates train`: from arguments to what is printed."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ...errors import RetainError, UsageError
from ..sidecar.file import WEIGHT_TYPES
from .options import TrainOptions

if TYPE_CHECKING:
    from .trainer import Progress as Step
    from .training import Prepared

_PACKAGES = ("torch", "transformers", "safetensors", "tokenizers")
_LINES = 20  # of losses on the whole, beside the bar

logger = logging.getLogger("retain_local")


def train(
    base: str, out: Path, data: list[str], options: TrainOptions, base_gguf: Path | None, weight_type: str
) -> None:
    """Train gates, with a bar and the losses, and say what was written.

    Raises
    ------
    RetainError : PyTorch is not installed, or what `train_gates` raises.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise RetainError(f"training needs {', '.join(missing)}: pip install 'retain-local[train]'")
    if weight_type not in WEIGHT_TYPES:
        raise UsageError(f"outtype {weight_type!r} is not one of {', '.join(WEIGHT_TYPES)}")
    if not data:
        raise UsageError("name what to train on with --data")

    from transformers.utils import logging as transformers_logging

    from .training import train_gates

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    console = Console(highlight=False, soft_wrap=True)
    with TrainingScreen(console, options) as screen:
        export = train_gates(base, out, data, options, base_gguf, weight_type, screen.start, screen.step)
    console.print(f"wrote [bold]{escape(str(export.path))}[/] and the checkpoint it was made from")
    for remark in export.remarks:
        logger.warning("%s", remark)


class TrainingScreen:
    """A bar with the time left, and above it a line with the losses now and then."""

    def __init__(self, console: Console, options: TrainOptions) -> None:
        self.console, self.options = console, options
        self._bar = Progress(
            TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=options.steps)

    def __enter__(self) -> TrainingScreen:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def start(self, prepared: Prepared) -> None:
        skipped = ""
        if prepared.n_skipped:
            skipped = f", {prepared.n_skipped:,} documents without anything to learn from left out"
        self.console.print(
            f"{prepared.n_parameters:,} parameters on {prepared.device}, base model in {prepared.dtype};"
            f" {prepared.n_rows:,} rows with {prepared.n_tokens:,} tokens{skipped}"
        )
        if prepared.step:
            self.console.print(f"going on after step {prepared.step:,}")
        self._bar.update(self._task, completed=prepared.step)

    def step(self, progress: Step) -> None:
        self._bar.update(self._task, completed=progress.step)
        every = max(1, progress.n_steps // _LINES)
        if progress.step % every == 0 or progress.step in (1, progress.n_steps):
            losses = progress.losses
            self.console.print(
                f"step {progress.step:,} of {progress.n_steps:,}: loss {_shown(losses['total'])}, KL {_shown(losses['kl'])},"
                f" cross-entropy {_shown(losses['ce'])}, capacity {_shown(losses['capacity'])},"
                f" cells left {losses['cells']:.1%}"
            )


def _shown(loss: float) -> str:
    """Four decimals; rounding leaves a KL of next to nothing below 0, which is not shown as -0.0000."""
    return f"{round(loss, 4) + 0.0:.4f}"
