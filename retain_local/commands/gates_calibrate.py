"""`retain-local gates calibrate`: from a model to gates beside it, and what they are worth."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..divergence.texts import read_files
from ..errors import UsageError
from ..gates.calibrate.options import CalibrateOptions
from ..gates.calibrate.state import state_path
from ..gates.sidecar.file import WEIGHT_TYPES, check_out
from ..models.model_file import read_model_file
from ..options.retention_options import RetentionOptions
from ..terminal.progress import AuditProgress
from .loading import usual_threads
from .model_name import find_model

SHARES = (4, 8)  # of a text: budgets at which gates and window are compared
_CHUNK = 64

logger = logging.getLogger("retain_local")


@dataclass(frozen=True)
class Worth:
    """Mean KL divergence from the full cache, in nats, over the second half of the held-out text of one kind."""

    kind: str
    share: int
    gates: float
    window: float


def run_calibrate(
    name: str, paths: Sequence[Path], out: Path | None, options: CalibrateOptions, weight_type: str, threads: int | None,
    n_gpu_layers: int, force: bool,
) -> None:  # fmt: skip
    """Calibrate gates, write them, and print how well they foresee and what they cost against a window.

    Raises
    ------
    RetainError : see `calibrate` and `read_files`.
    """
    if weight_type not in WEIGHT_TYPES:
        raise UsageError(f"outtype {weight_type!r} is not one of {', '.join(WEIGHT_TYPES)}")
    contents = read_files(paths)
    model = read_model_file(find_model(name)[0])
    out = model.sidecar_path() if out is None else out
    check_out(out, force, model.path)

    from ..gates.calibrate.calibration import calibrate  # loads the native libraries

    threads = threads or usual_threads(model.path)
    loading = {"n_threads": threads, "n_threads_batch": threads, "n_gpu_layers": n_gpu_layers}
    console = Console(highlight=False, emoji=False, soft_wrap=True)
    try:
        with AuditProgress("calibrating") as progress:
            made = calibrate(
                model, out, contents, options, weight_type, lambda _, done, total: progress(done, total), **loading
            )
    except KeyboardInterrupt:
        if state_path(out).exists():
            console.print(f"stopped; the same command goes on from {escape(str(state_path(out)))}")
        raise
    resumed = f", {made.n_resumed} of them before it was stopped" if made.n_resumed else ""
    console.print(f"wrote [bold]{escape(str(out))}[/] from {made.n_documents} texts{resumed}")
    with AuditProgress("comparing with a window") as progress:
        worths = _worths(model.path, out, {one.kind: one.tokens for one in made.held}, loading, progress)
    console.print(_table(made.correlation, worths))
    _conclude(console, worths)


def _worths(
    model: Path,
    gates: Path,
    texts: Mapping[str, Sequence[int]],
    loading: Mapping[str, Any],
    on_progress: Callable[[int, int], None],
) -> list[Worth]:
    from ..divergence.lockstep import diverge
    from ..llama import Llama

    smallest = RetentionOptions(1, policy="none", gates=None, sinks=0, n_ubatch=_CHUNK, buffer=_CHUNK)
    n_ctx = max(map(len, texts.values()))
    found: list[Worth] = []
    total = sum(map(len, texts.values()))
    done = 0
    with closing(Llama(model, n_ctx=n_ctx, **vars(smallest) | dict(loading))) as llm:
        for kind, tokens in texts.items():
            caches = [
                replace(
                    smallest, budget=max(1, len(tokens) // share), policy=policy,
                    gates=gates if policy == "gate" else None, sinks=min(4, len(tokens) // share),
                )
                for share in SHARES
                for policy in ("gate", "window")
            ]  # fmt: skip

            def tell(read: int, of: int, before: int = done, n: int = len(tokens)) -> None:
                on_progress(before * 100 + n * 100 * read // of, total * 100)

            first = len(tokens) // 2
            results = diverge(llm, tokens, caches, tell, first)
            kl = [float(result.kl[first:].mean()) for result in results]
            found += [Worth(kind, share, *kl[2 * at : 2 * at + 2]) for at, share in enumerate(SHARES)]
            done += len(tokens)
    return found


def _table(correlation: Mapping[str, float], worths: Sequence[Worth]) -> Table:
    table = Table(
        "held-out text",
        "correlation",
        *(f"KL at 1/{share}: {what}" for share in SHARES for what in ("gates", "window")),
    )
    for kind, value in correlation.items():
        numbers = [f"{number:.4f}" for worth in worths if worth.kind == kind for number in (worth.gates, worth.window)]
        table.add_row(escape(kind), f"{value:.2f}", *numbers)
    return table


def _conclude(console: Console, worths: Sequence[Worth]) -> None:
    worse = [f"{worth.kind} at 1/{worth.share}" for worth in worths if worth.gates >= worth.window]
    if worse:
        logger.warning(
            "the gates are no better than a window on %s; audit tells more on your own text", ", ".join(worse)
        )
    else:
        factor = min(worth.window / max(worth.gates, 1e-9) for worth in worths)
        console.print(
            f"[green]the gates are better than a window on each text[/]: its divergence is {factor:.1f} times theirs at least"
        )
