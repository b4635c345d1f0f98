"""Which tokens of a row see which."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retain_local.gates.train.spans import spans_of


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), window=st.none() | st.integers(1, 12))
def test_spans(lengths: list[int], window: int | None) -> None:
    documents = torch.cat([torch.full((n,), number) for number, n in enumerate(lengths)])[None]
    n = documents.shape[1]
    spans = spans_of(documents, window)
    sees = torch.tensor([
        [i <= t and bool(documents[0, i] == documents[0, t]) and (window is None or t - i < window) for i in range(n)]
        for t in range(n)
    ])  # fmt: skip
    assert torch.equal(spans.visible(0, n)[0], sees)
    at = torch.arange(n)
    assert torch.equal(spans.first[0].long(), sees.long().argmax(1))
    assert torch.equal(spans.last[0].long(), (sees * (at[:, None] + 1)).amax(0))


@pytest.mark.parametrize("start", [0, 3])
def test_a_block_of_queries(start: int) -> None:
    documents = torch.tensor([[0, 0, 1, 1, 1, -1]])
    spans = spans_of(documents)
    assert torch.equal(spans.visible(start, 5), spans.visible(0, 6)[:, start:5, :5])
