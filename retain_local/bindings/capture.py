"""Tensors of the compute graph, taken through llama.cpp's evaluation callback."""

from __future__ import annotations

import numpy as np

from . import llama_cpp
from .graph import node_at


class Capture:
    """Keeps every value of the tensors `{base}-{layer}` of the given base names, in the order they were computed.

    Parameters
    ----------
    widths : base name -> number of floats per token. A tensor without a layer goes by its name alone.

    Attributes
    ----------
    values : name -> [n_tokens, width] f32 arrays, one for each time it was computed.
    callback : for `llama_context_params.cb_eval`.
    """

    def __init__(self, widths: dict[str, int]) -> None:
        self.widths = widths
        self.values: dict[str, list[np.ndarray]] = {}
        self._error: BaseException | None = None
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self._see)

    def _see(self, tensor: int, ask: bool, _: int) -> bool:
        try:
            return self._look(tensor, ask)
        except BaseException as error:  # Ctrl-C among them: an exception cannot pass through C
            self._error = error
            return False

    def _look(self, tensor: int, ask: bool) -> bool:
        node = node_at(tensor)
        name = node.name.decode()
        width = self.widths.get(name.rpartition("-")[0] or name)
        if ask or width is None:
            return width is not None
        self.values.setdefault(name, []).append(node.floats().reshape(-1, width))
        return True

    def check(self) -> None:
        """Raise what went wrong in the callback; then not all values are there."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def take(self, base: str, n_layer: int) -> np.ndarray:
        """All values since the last take, [n_layer, n_tokens, width] f32, tokens in the order they were computed.

        What went wrong when they were taken is raised here.
        """
        self.check()
        return np.stack([np.concatenate(self.values.pop(f"{base}-{il}")) for il in range(n_layer)])
