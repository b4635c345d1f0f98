"""A model whose compute graph is watched while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..bindings import llama_cpp
from ..llama import Llama


class WatchedLlama(Llama):
    """A model with an evaluation callback, for which the parent has no argument.

    Parameters
    ----------
    callback : a `ggml_backend_sched_eval_callback`; it must live as long as the model.
    options : of `Llama`.
    """

    def __init__(self, path: Path, callback: Any, **options: Any) -> None:
        self._eval_callback = callback
        super().__init__(path, **options)

    @property
    def context_params(self) -> llama_cpp.llama_context_params:
        """Parameters of the context, as the parent fills them in."""
        return self._context_params

    @context_params.setter
    def context_params(self, params: llama_cpp.llama_context_params) -> None:
        params.cb_eval = self._eval_callback
        self._context_params = params
