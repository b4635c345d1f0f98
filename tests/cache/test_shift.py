"""Position shift: as in stock llama.cpp while a sequence is whole, refused once it has holes."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import TinyFiles
from retain_local.bindings import retain_h
from support.llama_session import Model, Session
from support.retained import RetainedSession
from support.tiny_models import N_VOCAB

TOKENS = np.random.default_rng(4).integers(3, N_VOCAB, 120).tolist()


@pytest.fixture(scope="module", params=["llama", "qwen3", "stablelm"])
def model(request: pytest.FixtureRequest, tiny: TinyFiles):
    """Rotation of neighbours, of halves, and of a part of the head."""
    model = Model(tiny.model(request.param))
    yield model
    model.close()


def drop_the_start(session: Session) -> np.ndarray:
    """Read, drop the first 20 tokens, move the others to the start, and read on."""
    session.decode(TOKENS[:60])
    session.remove(0, 20)
    session.shift(20, -1, -20)
    assert session.n_seen() == 40
    return session.decode(TOKENS[60:])


@pytest.mark.parametrize(("cell_type", "error"), [("f32", 1e-5), ("f16", 1e-2)])
def test_a_whole_sequence_shifts_as_in_stock(model: Model, cell_type: str, error: float) -> None:
    with Session(model, cell_type=cell_type, flash_attn=False) as session:
        stock = drop_the_start(session)
    with RetainedSession(model, {"budget": 1024}, cell_type=cell_type) as session:
        ours = drop_the_start(session)
        assert session.cell_list(0, 0)[0].tolist() == list(range(100))
    with Session(model, cell_type=cell_type, flash_attn=False) as session:
        session.decode(TOKENS[:60])
        unshifted = session.decode(TOKENS[60:])
    scale = stock.std()
    assert np.abs(ours - stock).max() <= error * scale
    assert np.abs(unshifted - stock).max() > 0.1 * scale


def test_a_sequence_with_holes_does_not_shift(model: Model) -> None:
    with RetainedSession(model, {"budget": 1024}, n_ubatch=16) as session:
        session.decode(TOKENS[:60])
        assert session.can_shift()
        session.remove(40, 50)
        assert not session.can_shift()
        before = session.state()
        session.shift(50, -1, -10)
        assert "shift" in retain_h.error_text()
        assert session.state() == before


def test_a_shift_is_not_announced_where_evictions_may_come(model: Model) -> None:
    """Clients ask once, before the first token; until the first eviction a shift is exact all the same."""
    with RetainedSession(model, {"budget": 32, "buffer": 8}, n_ubatch=16) as session:
        assert not session.can_shift()
        session.decode(TOKENS[:30])
        retain_h.clear_error()
        session.remove(0, 10)
        session.shift(10, -1, -10)
        assert not retain_h.error_text() and session.n_seen() == 20
        session.decode(TOKENS[30:120])
        session.shift(10, -1, -5)
        assert "cannot be shifted" in retain_h.error_text()
