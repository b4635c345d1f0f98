"""Saving, restoring and rolling back: nothing is lost, and what is damaged or foreign changes nothing."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import TinyFiles
from retain_local.bindings import retain_h
from retain_local.errors import RetainError
from support.libraries import PATCHED
from support.llama_session import Model
from support.retained import RetainedSession
from support.state_checksum import state_checksum
from support.tiny_models import N_VOCAB, TINY_MODELS
from support.worker import run_worker

import llama_cpp  # isort: skip  the modules above have loaded the libraries

BUDGET, BUFFER, N_UBATCH = 32, 16, 16
CONTEXT = {"n_ctx": 512, "n_batch": 64, "n_ubatch": N_UBATCH}
N_GREEDY = 40

# the sequence that a state was saved from, which llama.cpp writes after its own magic number and does not look at again
UNREAD = range(4, 8)
PROMPT = [1, *np.random.default_rng(3).integers(3, N_VOCAB, 149).tolist()]


def retain_for(tiny: TinyFiles, arch: str, **changes) -> dict:
    return {"budget": BUDGET, "buffer": BUFFER, "n_sink": 1, "gates": str(tiny.gates(arch)), **changes}


@pytest.mark.parametrize("cell_type", ["f16", "q8_0"])
@pytest.mark.parametrize("arch", ["llama", "qwen3"])
def test_a_fresh_process_goes_on_where_another_stopped(
    tiny: TinyFiles, tmp_path: Path, arch: str, cell_type: str
) -> None:
    state = str(tmp_path / "state.npz")
    run = {"retain": retain_for(tiny, arch), "context": {**CONTEXT, "cell_type": cell_type}}
    whole = {**run, "steps": [("decode", PROMPT), ("greedy", 2 * N_GREEDY)]}
    paused = {**run, "steps": [("decode", PROMPT), ("greedy", N_GREEDY), ("save", state)]}
    resumed = {**run, "steps": [("load", state), ("greedy", N_GREEDY)]}

    first = run_worker(tmp_path, tiny.model(arch), [whole, paused], PATCHED)
    second = run_worker(tmp_path, tiny.model(arch), [resumed], PATCHED)
    tokens = first["0.1.tokens"]
    np.testing.assert_array_equal(first["1.1.tokens"], tokens[:N_GREEDY])
    np.testing.assert_array_equal(second["0.1.tokens"], tokens[N_GREEDY:])
    np.testing.assert_allclose(second["0.1.logits"], first["0.1.logits"][N_GREEDY:], atol=1e-4)


@pytest.fixture(scope="module")
def model(tiny: TinyFiles):
    model = Model(tiny.model("llama"))
    yield model
    model.close()


# with queries in the state, and without
@pytest.fixture(scope="module", params=["gate", "snapkv"])
def session(tiny: TinyFiles, model: Model, request: pytest.FixtureRequest):
    """A session in the middle of a text."""
    with RetainedSession(model, retain_for(tiny, "llama", policy=request.param), **CONTEXT) as session:
        session.decode(PROMPT)
        assert session.stats().n_evicted > 0
        yield session


@pytest.mark.parametrize("seq_id", [None, 0])
@settings(max_examples=100)
@given(data=st.data())
def test_a_damaged_state_changes_nothing(session: RetainedSession, seq_id: int | None, data) -> None:
    state = session.state(seq_id)
    damaged = bytearray(state)
    if data.draw(st.booleans(), label="truncate"):
        del damaged[data.draw(st.integers(0, len(state) - 1), label="length") :]
    else:
        # the first bytes are counts and names, which decide what the rest means
        n = data.draw(st.sampled_from([64, 512, len(state)]), label="within")
        at = data.draw(st.integers(0, n - 1).filter(lambda i: seq_id is None or i not in UNREAD), label="at")
        damaged[at] ^= 1 << data.draw(st.integers(0, 7), label="bit")
    assert not session.restore(bytes(damaged), seq_id)
    assert session.state(seq_id) == state


@pytest.mark.parametrize("policy", [name for name in retain_h.policies() if name != "none"])
def test_a_restored_state_goes_on_under_every_policy(tiny: TinyFiles, model: Model, policy: str) -> None:
    """The whole state in a fresh context: the same text and the same cells as without the interruption."""
    retain = retain_for(tiny, "llama", policy=policy, budget=48)
    with RetainedSession(model, retain, **CONTEXT) as whole, RetainedSession(model, retain, **CONTEXT) as resumed:
        last = whole.decode(PROMPT)[-1]
        assert resumed.restore(whole.state())
        assert positions(resumed) == positions(whole) and resumed.state() == whole.state()
        for session in (whole, resumed):
            session.set_budget(40)  # evicts at once, by the queries that came with the state
        assert positions(resumed) == positions(whole)
        assert resumed.greedy(last, N_GREEDY)[0] == whole.greedy(last, N_GREEDY)[0]
        assert positions(resumed) == positions(whole)


def test_a_state_passes_between_policies(tiny: TinyFiles, model: Model) -> None:
    """With queries to a policy that keeps none, and without to one that does."""
    contexts = [
        RetainedSession(model, retain_for(tiny, "llama", policy=name), **CONTEXT) for name in ("snapkv", "window")
    ]
    with contexts[0] as first, contexts[1] as second:
        first.decode(PROMPT)
        assert second.restore(first.state(0), 0) and positions(second) == positions(first)
        without = second.state(0)
        assert len(without) < len(first.state(0))
        assert first.restore(without, 0) and first.state(0) == without
        first.greedy(second.decode(PROMPT[-1:])[-1], N_GREEDY)


def test_a_damaged_state_disturbs_no_text(tiny: TinyFiles, model: Model) -> None:
    def text(disturb: bool) -> list[int]:
        with RetainedSession(model, retain_for(tiny, "llama"), **CONTEXT) as session:
            last = session.decode(PROMPT)[-1]
            if disturb:
                state = bytearray(session.state())
                state[len(state) // 2] ^= 1
                assert not session.restore(bytes(state))
            return session.greedy(last, N_GREEDY)[0]

    assert text(disturb=True) == text(disturb=False)


def test_foreign_states_change_nothing(tiny: TinyFiles, session: RetainedSession, model: Model) -> None:
    before = session.state()

    def state_of(model: Model, seq_id: int | None, retain: dict, **context) -> bytes:
        with RetainedSession(model, retain, **{**CONTEXT, **context}) as other:
            other.decode(PROMPT[:40])
            return other.state(seq_id)

    other_model = Model(tiny.model("qwen3"))
    for seq_id in (None, 0):
        foreign = {
            "another model": state_of(other_model, seq_id, retain_for(tiny, "qwen3")),
            "another cell type": state_of(model, seq_id, retain_for(tiny, "llama"), cell_type="q8_0"),
            "no gates": state_of(model, seq_id, {"budget": BUDGET}),
            "a larger budget": state_of(model, seq_id, retain_for(tiny, "llama", budget=2 * BUDGET)),
            "nothing": b"",
            "noise": before[:12] + np.random.default_rng(0).bytes(4096),
        }
        for what, state in foreign.items():
            assert not session.restore(state, seq_id), what
            assert session.state() == before, what
    other_model.close()


def test_a_stock_state_changes_nothing(tiny: TinyFiles, session: RetainedSession, model: Model, tmp_path: Path) -> None:
    """The patched libraries without retention parameters write what stock llama.cpp writes."""
    path = str(tmp_path / "state.npz")
    run = {"retain": None, "context": CONTEXT, "steps": [("decode", PROMPT), ("save", path)]}
    run_worker(tmp_path, model.path, [run], PATCHED)
    before = session.state()
    with np.load(path) as saved:
        assert not session.restore(saved["state"].tobytes())
    assert session.state() == before


def test_a_huge_count_is_refused(session: RetainedSession) -> None:
    """The size of the payload, in the header of a sequence's state, as large as it can be."""
    state = session.state(0)
    n_header = UNREAD.stop + 32
    at = state.index(struct.pack("<Q", len(state) - n_header), 0, n_header)
    damaged = state[:at] + struct.pack("<Q", 2**63) + state[at + 8 :]
    assert not session.restore(damaged, 0)
    assert session.state(0) == state


N_HEADER = UNREAD.stop + 32
AT_QUERIES = N_HEADER + 41  # their number, behind the sequence's own numbers and no pins
QUERY_BYTES = 4 * (2 + TINY_MODELS["llama"].n_layer * TINY_MODELS["llama"].n_embd_q)


def forged(state: bytes, at: int, value: bytes) -> bytes:
    """The state of a sequence with other bytes at an offset, and the checksum that goes with them."""
    state = state[:at] + value + state[at + len(value) :]
    payload = state[N_HEADER:]
    return state[: N_HEADER - 8] + struct.pack("<Q", state_checksum(payload)) + payload


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (AT_QUERIES, struct.pack("<q", 65)),
        (AT_QUERIES, struct.pack("<q", -1)),
        (AT_QUERIES, struct.pack("<q", 2**61)),
        (AT_QUERIES + 8, struct.pack("<i", -1)),
        (AT_QUERIES + 8, struct.pack("<i", 200)),
        (AT_QUERIES + 8 + QUERY_BYTES, struct.pack("<i", 3)),
        (AT_QUERIES + 12, struct.pack("<i", -1)),
        (AT_QUERIES + 12, struct.pack("<i", 150)),
        (AT_QUERIES + 12 + QUERY_BYTES, struct.pack("<i", 86)),
    ],
    ids=[
        "too many",
        "negative",
        "overflow",
        "before the first position",
        "after the last",
        "out of order",
        "before the first token",
        "after the last token",
        "of one token twice",
    ],
)
def test_forged_queries_are_refused(tiny: TinyFiles, model: Model, at: int, value: bytes) -> None:
    """With a right checksum, so that their own checks must find them."""
    with RetainedSession(model, retain_for(tiny, "llama", policy="snapkv"), **CONTEXT) as session:
        session.decode(PROMPT)
        state = session.state(0)
        assert forged(state, AT_QUERIES, struct.pack("<q", 64)) == state
        assert not session.restore(forged(state, at, value), 0)
        assert "damaged" in retain_h.error_text() or "truncated" in retain_h.error_text()
        assert "checksum" not in retain_h.error_text()
        assert session.state(0) == state


def positions(session: RetainedSession) -> list[list[int]]:
    shape = TINY_MODELS["llama"]
    return [session.cell_list(il, head)[0].tolist() for il in range(shape.n_layer) for head in range(shape.n_head_kv)]


@pytest.mark.parametrize("policy", ["gate", "snapkv"])
def test_the_last_tokens_can_be_taken_back_and_written_again(tiny: TinyFiles, model: Model, policy: str) -> None:
    """To every position that the library allows: the cells are those of then, and the text comes out again."""
    with RetainedSession(model, retain_for(tiny, "llama", policy=policy, budget=48), **CONTEXT) as session:
        last = session.decode(PROMPT)[-1]
        tokens, kept = list(PROMPT), {session.n_seen(): positions(session)}
        # to a point well after an eviction, so that there is something to take back
        while session.n_seen() < 260 or session.n_seen() - session.rollback_limit() < 10:
            tokens.append(int(np.argmax(last)))
            last = session.decode(tokens[-1:])[-1]
            kept[session.n_seen()] = positions(session)
        n, limit = session.n_seen(), session.rollback_limit()
        assert 10 <= n - limit < BUFFER
        assert kept[limit - 1] != [[p for p in positions if p < limit - 1] for positions in kept[n]]

        before = session.state()
        assert not session.try_remove(limit - 1, -1) and "cannot be cut back" in retain_h.error_text()
        assert session.state() == before

        for p in range(n - 1, limit, -1):
            session.remove(p - 1, -1)
            assert session.n_seen() == p - 1
            assert session.rollback_limit() == limit
            if p - 1 > limit:  # at the limit the eviction has run that was only due then
                assert positions(session) == kept[p - 1]
            again = session.decode(tokens[p - 1 : p])[-1]
            written, _ = session.greedy(again, n - p)
            assert written == tokens[p:n]
            assert positions(session) == kept[n]
            session.restore(before)
            session.remove(p - 1, -1)
            session.decode(tokens[p - 1 : n])
            session.set_budget(40)  # evicts at once
            at_once = positions(session)
            session.restore(before)
            session.set_budget(40)
            assert positions(session) == at_once
            session.restore(before)


def test_nothing_is_lost_before_the_first_eviction(tiny: TinyFiles, model: Model) -> None:
    with RetainedSession(model, retain_for(tiny, "llama"), **CONTEXT) as session:
        session.decode(PROMPT[: BUDGET + BUFFER - 1])
        assert session.rollback_limit() == 0
        session.remove(5, -1)
        assert positions(session) == [[0, 1, 2, 3, 4]] * len(positions(session))
        session.remove(0, -1)
        assert session.n_cells() == session.stats().n_pages_used == session.n_seen() == 0


def test_a_sequence_out_of_range_is_refused(session: RetainedSession) -> None:
    before = session.state()
    assert not session.restore(session.state(0), 1)
    with pytest.raises(RetainError):
        session.pin(0, 1, seq_id=1)
    assert session.state() == before


@pytest.mark.parametrize("seq_id", [None, 0])
def test_a_file_that_goes_on_after_the_state_changes_nothing(
    session: RetainedSession, tmp_path: Path, seq_id: int | None
) -> None:
    path, tokens, n_tokens = tmp_path / "state", (llama_cpp.llama_token * 8)(), ctypes.c_size_t()
    name = str(path).encode()
    if seq_id is None:
        assert llama_cpp.llama_state_save_file(session.handle, name, tokens, 3)
    else:
        assert llama_cpp.llama_state_seq_save_file(session.handle, name, seq_id, tokens, 3)
    saved = path.read_bytes()
    session.decode(PROMPT[:3])
    before = session.state()

    def load() -> bool:
        if seq_id is None:
            return llama_cpp.llama_state_load_file(session.handle, name, tokens, 8, ctypes.byref(n_tokens))
        n = llama_cpp.llama_state_seq_load_file(session.handle, name, seq_id, tokens, 8, ctypes.byref(n_tokens))
        return n != 0

    for changed in (saved + b"more", saved + bytes(4096), saved[:-1], saved[:100], b""):
        path.write_bytes(changed)
        retain_h.clear_error()
        assert not load() and retain_h.error_text()
        assert session.state() == before
    path.write_bytes(saved)
    assert load() and session.n_seen() == len(PROMPT)
