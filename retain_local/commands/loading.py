"""Loading a model for the command line: from a name to a `Llama`, with progress."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..options.model_options import ModelOptions
from ..options.retention_options import AUTO_GATES, RetentionOptions
from ..terminal.progress import LoadProgress
from .model_name import find_model

if TYPE_CHECKING:
    from ..llama import Llama

_SMALL_MODEL = 32e6  # bytes; threads of a smaller one mostly wait for each other


def load_model(name: str, retention: RetentionOptions, loading: ModelOptions) -> Llama:
    """Find a model, on this machine or on the Hub, and load it.

    Raises
    ------
    RetainError : it cannot be found, fetched or loaded.
    """
    path, fetched_gates = find_model(name)
    threads = loading.n_threads or usual_threads(path)
    named = vars(retention) | vars(loading) | {"n_threads": threads, "n_threads_batch": threads}

    from ..llama import Llama

    with LoadProgress(path.name) as progress:
        return Llama(path, on_load=progress, **named | {"gates": gates_to_load(retention, fetched_gates)})


def gates_to_load(retention: RetentionOptions, fetched: Path | None) -> str | os.PathLike[str] | None:
    """The gates as `Llama` takes them: those that came with the model, where they are asked for and none are named."""
    if retention.gates == AUTO_GATES and retention.policy in ("auto", "gate") and fetched is not None:
        return fetched
    return retention.gates


def usual_threads(model: Path) -> int | None:
    """Threads for a model where none are asked for; None leaves it to the machine."""
    return 1 if model.is_file() and model.stat().st_size < _SMALL_MODEL else None
