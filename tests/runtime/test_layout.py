"""Where pictures stand in a text: positions, places to cut, and how a prompt with them is read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retain_local.decoding.history import ReadingPlan
from retain_local.errors import RetainError
from retain_local.vision.layout import Layout
from retain_local.vision.picture import Picture, PictureBook

N_UBATCH = 32


def picture(number: int, n_tokens: int, n_positions: int, is_causal: bool) -> Picture:
    """A picture whose tokens share one position where it has fewer positions than tokens."""
    steps = np.ones((1, n_tokens), np.int32)
    own = np.arange(n_tokens, dtype=np.int32)[None] if n_positions == n_tokens else np.zeros_like(steps)
    return Picture(number.to_bytes(4, "big"), own, steps, n_positions, is_causal, lambda: np.zeros((n_tokens, 1)))


pictures = st.builds(
    lambda n, share, is_causal: (n, n if share else max(1, n // 7), is_causal),
    st.integers(1, N_UBATCH),
    st.booleans(),
    st.booleans(),
)
texts = st.lists(st.one_of(st.integers(1, 60), pictures), min_size=1, max_size=8)


def made(parts: list, book: PictureBook) -> tuple[list[int], list[Picture]]:
    tokens, held = [], []
    for number, part in enumerate(parts):
        if isinstance(part, int):
            tokens += [7] * part
        else:
            held.append(book.add(picture(number, *part)))
            tokens += held[-1].tokens
    return tokens, held


@given(parts=texts)
def test_tokens_and_positions(parts: list) -> None:
    """One by one: each token of text is one position on, and what follows a picture goes on where it ends."""
    book = PictureBook()
    tokens, held = made(parts, book)
    layout = Layout.of(tokens, book)
    assert list(layout.pictures) == held
    n = position = 0
    for part in parts:
        if isinstance(part, int):
            for _ in range(part):
                assert layout.position(n) == position and layout.place_before(n) == n and layout.at(n) is None
                assert layout.token(position) == n
                n, position = n + 1, position + 1
        else:
            n_tokens, n_positions, _ = part
            for i in range(n_tokens):
                assert layout.position(n + i) == position and layout.place_before(n + i) == n
                assert layout.at(n + i).start == n
            n, position = n + n_tokens, position + n_positions
    assert layout.position(n) == position and n == len(tokens)


@given(parts=texts, n=st.integers(0, 500), more=texts)
def test_cut_and_extended(parts: list, n: int, more: list) -> None:
    """A layout that is cut and goes on is that of the text that is cut and goes on."""
    book = PictureBook()
    tokens, held = made(parts, book)
    layout = Layout.of(tokens, book)
    at = layout.place_before(min(n, len(tokens)))
    rest, others = made(more, book)
    assert layout.cut(at).placed == Layout.of(tokens[:at], book).placed
    assert layout.extended(at, rest, book).placed == Layout.of(tokens[:at] + rest, book).placed
    assert all(one in (*held, *others) for one in layout.extended(at, rest, book).pictures)


@given(parts=texts, budget=st.integers(16, 200), buffer=st.integers(0, 80))
def test_a_prompt_is_cut_where_pictures_begin_and_end(parts: list, budget: int, buffer: int) -> None:
    book = PictureBook()
    tokens, held = made(parts, book)
    layout = Layout.of(tokens, book)
    plan = ReadingPlan(budget, buffer, N_UBATCH, budget + max(buffer, N_UBATCH), layout=layout)
    cuts = [0]
    while cuts[-1] < len(tokens):
        cuts.append(plan.next_cut(cuts[-1]))  # the last one as if the prompt went on
    assert all(0 < stop - start <= N_UBATCH for start, stop in zip(cuts, cuts[1:]))
    for one in layout.placed:
        assert {one.start, one.stop} <= set(cuts)
        assert one.picture.is_causal or not set(cuts) & set(range(one.start + 1, one.stop))
    for n in range(len(tokens) + 1):
        assert plan.last_cut(n) == max(cut for cut in cuts if cut <= n and layout.place_before(cut) == cut)
    del held


def test_a_plan_without_pictures_is_what_it_was() -> None:
    plan = ReadingPlan(64, 32, 32, 96)
    assert [plan.next_cut(n) for n in (0, 5, 32, 96, 100)] == [32, 32, 64, 128, 128]
    assert plan == ReadingPlan(64, 32, 32, 96, layout=Layout([(3, picture(0, 4, 4, True))]))


def test_the_book_forgets_what_nobody_holds() -> None:
    book = PictureBook()
    first = picture(1, 20, 4, True)
    assert book.add(first) is first and book.add(picture(1, 20, 4, True)) is first
    tokens = [5, *first.tokens, 6]
    assert book.of(tokens) == (first,)
    for wrong in (tokens[:-5], tokens[2:], [5, -1]):
        with pytest.raises(RetainError, match="neither a token nor the beginning of a whole picture"):
            book.of(wrong)
    del first
    with pytest.raises(RetainError):
        book.of(tokens)
