"""Two habits of the bindings that are taken from them, for the whole process.

Without `verbose` they put the process's stdout and stderr on the null device while native code runs. What other threads
and callbacks print meanwhile is lost, and two models that are loaded at once leave both streams there for good. The log
callback of `log` decides what is shown, so that nothing needs to be hidden.

Their objects free native memory when they are collected, also while the interpreter ends, when half of what they call is
gone. The operating system does it then.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from . import llama_cpp


def install() -> None:
    """Mend the bindings. Idempotent."""
    from llama_cpp import _internals, _utils

    streams = _utils.suppress_stdout_stderr
    streams.__enter__ = lambda self: self
    streams.__exit__ = lambda self, *_: None
    for owner in (
        llama_cpp.Llama,
        _internals.LlamaModel,
        _internals.LlamaContext,
        _internals.LlamaBatch,
        _internals.LlamaSampler,
    ):
        if not hasattr(owner.__del__, "while_running"):
            owner.__del__ = _while_running(owner.__del__)


def _while_running(finalize: Callable[[Any], None]) -> Callable[[Any], None]:
    def finalize_if_running(self: Any, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if not is_ending():
            finalize(self)

    finalize_if_running.while_running = True  # type: ignore[attr-defined]
    return finalize_if_running
