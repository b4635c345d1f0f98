"""Reading documents with a model that is watched: hidden states and importances of their cells."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ...errors import RetainError
from ..watched import WatchedLlama
from .documents import Document, Plan
from .importance import Each, LayerImportance
from .metric import OutputMetrics
from .watch import Attention, AttentionWatch, Floats

SEPARATOR = "\n\nRepeat the previous text exactly.\n\n"
N_UBATCH = 512

Layer = tuple[Floats, npt.NDArray[np.float64]]


class Reader:
    """A model that reads documents of one plan. A context manager.

    Parameters
    ----------
    model : the GGUF.
    n_ctx : tokens of the longest reading.
    options : of `Llama`, such as n_threads.

    Attributes
    ----------
    llm : the model.
    layers : the layers that have cells in the pool. n_heads : KV heads of each.

    Raises
    ------
    RetainError : the model cannot be loaded, or has no layers to make gates for.
    """

    def __init__(self, model: Path, n_ctx: int, **options: Any) -> None:
        self._watch = AttentionWatch()
        self._n_threads: int | None = options.get("n_threads")
        self.llm = WatchedLlama(
            model, self._watch.callback, policy="none", gates=None, sinks=0, budget=n_ctx, n_ctx=n_ctx,
            n_ubatch=min(N_UBATCH, n_ctx), **options,
        )  # fmt: skip
        try:
            self.layers = self._watch.layers = self.llm.retention.layers
            self.n_heads = [self.llm.retention.heads(il) for il in self.layers]
            self._separator = self._tokens(SEPARATOR)
            self._metrics = OutputMetrics(model, self.layers)
            readers = ((il, self._metrics.reader(il)) for il in self.layers)
            self._watch.readers = {il: weight for il, weight in readers if weight is not None}
        except BaseException:
            self.llm.close()
            raise

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.llm.close()

    def _tokens(self, text: str) -> list[int]:
        """Tokens of a text; none where the vocabulary cannot express it: it is a help and not needed."""
        try:
            return self.llm.tokenize(text.encode(), add_bos=False, special=False)
        except RetainError:
            return []

    def read(self, document: Document, plan: Plan, on_progress: Callable[[int], None] | None = None) -> list[Layer]:
        """What `LayerImportance.result` gives for each layer after a document was read, relative to the residual stream.

        Parameters
        ----------
        on_progress : called with the number of tokens read so far.

        Raises
        ------
        RetainError : the model names or computes something that gates cannot be made from.
        KeyboardInterrupt : Ctrl-C was pressed.
        """
        # NumPy's own threads would wait for work in a loop, on the cores that the model computes on
        with ThreadPoolExecutor(self._n_threads) as threads, threadpool_limits(1, "blas"):
            return self._read(document, plan, on_progress, threads.map)

    def _read(
        self, document: Document, plan: Plan, on_progress: Callable[[int], None] | None, each: Each
    ) -> list[Layer]:
        sums: dict[int, LayerImportance] = {}

        def see(il: int, attention: Attention) -> None:
            if il not in sums:
                metric = self._metrics.of(il, *attention.out.shape[1:])
                sums[il] = LayerImportance(
                    metric, plan.n_repeat, plan.n_text, plan.n_text + plan.n_pause, plan.least_age, each=each
                )
            sums[il].add(attention)

        tokens = plan.tokens(document, self._separator)
        self._watch.see = see
        self._watch.sizes.clear()
        self.llm.reset()
        try:
            for start in range(0, len(tokens), N_UBATCH):
                try:
                    self.llm.eval(tokens[start : start + N_UBATCH])
                finally:
                    self._watch.raise_error()
                if on_progress is not None:
                    on_progress(min(start + N_UBATCH, len(tokens)))
        finally:
            self._watch.see = None
        results = ((il, *sums[il].result()) for il in self.layers)
        return [(hidden, importance / self._scale(il)) for il, hidden, importance in results]

    def _scale(self, il: int) -> float:
        """The squared size of the residual stream behind a layer as it is read, in the middle of the tokens; 1 without a name."""
        sizes = self._watch.sizes.get(il, [])
        return float(np.median(np.concatenate(sizes)) ** 2) if sizes else 1.0
