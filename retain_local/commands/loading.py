"""Loading a model for the command line: from a name to a `Llama`, with progress."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..terminal.progress import LoadProgress

if TYPE_CHECKING:
    from ..llama import Llama


_HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<choice>.+))?")


@dataclass(frozen=True)
class LoadOptions:
    """Options of the commands that run a model, named as `Llama` names them."""

    budget: str | None = None
    buffer: int = 128
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
    n_batch: int = 512
    n_ubatch: int = 512
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
    named = vars(options) | {"n_threads_batch": options.n_threads, "gates": gates_to_load(options, fetched_gates)}

    from ..llama import Llama

    with LoadProgress(path.name) as progress:
        return Llama(path, on_load=progress, **named)


def gates_to_load(options: LoadOptions, fetched: Path | None) -> str | Path | None:
    """The gates as `Llama` takes them: those that came with the model, where they are asked for and none are named."""
    if options.gates == "auto" and options.policy in ("auto", "gate") and fetched is not None:
        return fetched
    return None if options.gates == "none" else options.gates


def find_model(name: str) -> tuple[Path, Path | None]:
    """The file that a name stands for, and its gates when they came with it from the Hub.

    Parameters
    ----------
    name : a file, or `owner/repo`, `owner/repo:file.gguf`, `owner/repo:Q4_K_M`. What is a file here is taken as one.

    Raises
    ------
    RetainError : it cannot be fetched.
    """
    match = _HUB_NAME.fullmatch(name)
    # a missing models/x.gguf is a missing file, not somebody's repository
    if Path(name).exists() or match is None or (match["choice"] is None and name.endswith(".gguf")):
        return Path(name), None

    from ..models.hub import fetch_model  # takes a while to import

    fetched = fetch_model(match["repo"], match["choice"])
    return fetched.path, fetched.gates
