"""Loading a model for the command line: from a name to a `Llama`, with progress."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..terminal.progress import LoadProgress
from .model_name import find_model

if TYPE_CHECKING:
    from ..llama import Llama

_SMALL_MODEL = 32e6  # bytes; threads of a smaller one mostly wait for each other


@dataclass(frozen=True)
class LoadOptions:
    """Options of the commands that run a model, named as `Llama` names them."""

    budget: str | None = None
    buffer: int | None = None
    gates: str | None = "auto"
    policy: str = "auto"
    scope: str = "global"
    policy_seed: int = 0
    sinks: int = 4
    recent: int = 0
    min_per_head: int = 0
    lookahead: int = 1
    prefill: str = "bounded"
    pin_system: bool = False
    n_ctx: int = 0
    n_threads: int | None = None
    n_batch: int | None = None
    n_ubatch: int | None = None
    type_k: str = "f16"
    type_v: str = "f16"
    n_gpu_layers: int = 0
    verbose: bool = False
    rope_freq_base: float = 0.0
    control_tokens_in_messages: bool = False


def load_model(name: str, options: LoadOptions) -> Llama:
    """Find a model, on this machine or on the Hub, and load it.

    Raises
    ------
    RetainError : it cannot be found, fetched or loaded.
    """
    path, fetched_gates = find_model(name)
    threads = options.n_threads or usual_threads(path)
    gates = gates_to_load(options, fetched_gates)
    named = vars(options) | {"n_threads": threads, "n_threads_batch": threads, "gates": gates}

    from ..llama import Llama

    with LoadProgress(path.name) as progress:
        return Llama(path, on_load=progress, **named)


def gates_to_load(options: LoadOptions, fetched: Path | None) -> str | Path | None:
    """The gates as `Llama` takes them: those that came with the model, where they are asked for and none are named."""
    if options.gates == "auto" and options.policy in ("auto", "gate") and fetched is not None:
        return fetched
    return options.gates


def usual_threads(model: Path) -> int | None:
    """Threads for a model where none are asked for; None leaves it to the machine."""
    return 1 if model.is_file() and model.stat().st_size < _SMALL_MODEL else None
