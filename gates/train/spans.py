"""Which tokens see which: those before them in their document and, in layers with one, in the window."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spans:
    """The query t sees the keys [first[t], t]; the key i is seen by the queries [i, last[i]).

    first, last : [B, T] int32, neither ever falls along a row.
    """

    first: Tensor
    last: Tensor

    def visible(self, start: int, stop: int) -> Tensor:
        """Whether a query of [start, stop) sees a key of [0, stop); bool [B, stop - start, stop]."""
        keys = torch.arange(stop, device=self.first.device)
        queries = keys[start:, None]
        return (keys <= queries) & (keys >= self.first[:, start:stop, None])


def spans_of(documents: Tensor, window: int | None = None) -> Spans:
    """The spans of rows of documents.

    Parameters
    ----------
    documents : [B, T] integers: tokens with equal numbers are of one document, and documents are contiguous.
    window : how many tokens a query sees at most, itself among them; None: all of its document.
    """
    n_tokens = documents.shape[1]
    at = torch.arange(n_tokens, device=documents.device, dtype=torch.int32).expand(documents.shape)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    first = torch.where(begins, at, 0).cummax(dim=1).values
    ends = begins.roll(-1, dims=1)
    ends[:, -1] = True
    last = torch.where(ends, at + 1, n_tokens).flip(1).cummin(dim=1).values.flip(1)
    if window is not None:
        first, last = torch.maximum(first, at - window + 1), torch.minimum(last, at + window)
    return Spans(first.to(torch.int32).contiguous(), last.to(torch.int32).contiguous())
