"""Speculative decoding over a cache that evicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from llama_cpp.llama_speculative import LlamaDraftModel

if TYPE_CHECKING:
    from .cached_llama import CachedLlama


class ExactDraft(LlamaDraftModel):
    """A draft model whose drafts are as long as keeps the text that of decoding token by token.

    A draft ends where the next eviction is due: then none runs before it is known which tokens stay, each token that does
    not can be taken back exactly, and evictions fall where they fall without drafts. It also ends with the ubatch, since
    llama.cpp keeps the logits of one.

    Parameters
    ----------
    model : makes the drafts.
    llm : verifies them.
    """

    def __init__(self, model: LlamaDraftModel, llm: CachedLlama) -> None:
        self.model = model
        self._llm = llm

    def __call__(self, input_ids: npt.NDArray[np.intc], /, **kwargs: Any) -> npt.NDArray[np.intc]:
        """Tokens that may follow, [n] with n from 0 on.

        Parameters
        ----------
        input_ids : the text, [n_tokens], with the tokens at its end that are not evaluated yet.
        """
        n_certain = len(input_ids) - self._llm.n_tokens
        n_most = max(0, self._llm._draft_limit() - n_certain)
        drafts = np.asarray(self.model(input_ids, **kwargs)[:n_most], np.intc) if n_most else np.empty(0, np.intc)
        drafts = drafts[: int(np.argmax(np.append(drafts, -1) < 0))]  # what is below 0 is of a picture, and not written
        self._llm._n_drafts = len(drafts)
        return drafts
