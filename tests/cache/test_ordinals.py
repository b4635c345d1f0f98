"""Age counts tokens: where many tokens share a position, as those of a picture do, the cells that are kept are those of the
reference with ordinals, and roll-back, pins and what a caller sees go by positions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retain_local.bindings import retain_h
from retain_local.bindings.capture import Capture
from support.llama_session import Model
from support.reference import Cache, Options
from support.retained import RetainedSession, assert_same_cells, retain_fields
from support.rig import SMALL, Plan, Rig, assert_within_budget, open_rig, plans
from support.sequence_model import new_sequence
from support.tiny_gates import random_gates, write_tiny_gates
from support.tiny_models import N_VOCAB, TinyModel, write_tiny_model
from support.watch import KEY_POLICIES, Watch

# positions of three parts: time, and the row and the column of a picture
PICTURES = TinyModel(
    "qwen2vl", n_embd=64, n_head=2, n_head_kv=2, n_ff=64, metadata={"rope.dimension_sections": [8, 4, 4, 0]}
)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory):
    rig = open_rig(tmp_path_factory.mktemp("ordinals"))
    yield rig
    rig.model.close()


def crowded(rng: np.random.Generator, first: int, n: int) -> list[int]:
    """Positions of n tokens from `first` on, of which some share one: llama.cpp allows that within a batch."""
    return (first + np.cumsum(np.append(0, rng.random(n - 1) < rng.choice([0.1, 0.5, 1])))).astype(int).tolist()


def crowded_rows(rng: np.random.Generator, tokens: list[int], first: int) -> list[tuple[int, int, int]]:
    return [(token, pos, 0) for token, pos in zip(tokens, crowded(rng, first, len(tokens)))]


def advance(session: RetainedSession, cache: Cache, rows: list[tuple[int, int, int]]) -> None:
    """Decode one batch, give the reference its log betas, and compare."""
    session.decode_rows(rows)
    log_beta = session.capture.take("retention_log_beta", SMALL.n_layer)
    session.capture.values.clear()
    positions = np.array([pos for _, pos, _ in rows])
    for start in range(0, len(rows), cache.options.n_ubatch):
        part = slice(start, start + cache.options.n_ubatch)
        cache.add(positions[part], log_beta[:, part])
    assert_same_cells(session, cache)
    assert_within_budget(session, cache)


@settings(max_examples=80)
@given(plan=plans(), policy=st.sampled_from(["gate", "gate", "window", "random"]))
def test_kept_cells_equal_the_reference(rig: Rig, plan: Plan, policy: str) -> None:
    """Scores, ties, sinks, the recent window, minimums and the random policy's hash, over every option of a plan."""
    options = replace(plan.options, policy=policy, seed=plan.seed)
    cache, rng = new_sequence(SMALL.n_layer, SMALL.n_head_kv, options), np.random.default_rng(plan.seed)
    with rig.session(options, plan.gates) as session:
        for i, tokens in enumerate(plan.tokens()):
            if i in plan.pins:
                assert retain_h.pin(session.handle, 0, *plan.pins[i]) == cache.pin(*plan.pins[i])
            advance(session, cache, crowded_rows(rng, tokens, cache.next_pos))


@pytest.mark.parametrize("policy", KEY_POLICIES)
@settings(max_examples=15)
@given(plan=plans())
def test_policies_that_look_at_keys_and_queries(rig: Rig, policy: str, plan: Plan) -> None:
    rng = np.random.default_rng(plan.seed)
    with Watch(rig.model, SMALL, replace(plan.options, policy=policy), "f32") as watch:
        for tokens in plan.tokens():
            watch.decode_rows(crowded_rows(rng, tokens, watch.caches[0].next_pos))


def test_the_hook_is_told_ages_in_tokens(rig: Rig) -> None:
    ages: list[np.ndarray] = []

    def hook(seq_id, n_seen, layer, head, pos, log_beta, age):
        assert n_seen == 40 and pos.max() == 9
        ages.append(np.sort(age[(layer == 0) & (head == 0)]))

    with rig.session(Options(budget=24, buffer=4, n_ubatch=64)) as session:
        session.set_callback(hook)
        session.decode_rows([(5, i // 4, 0) for i in range(40)])
        session.decode_rows([(5, 10, 0)])
    assert [age.tolist() for age in ages] == [list(range(2, 42))]


def test_what_is_cut_back_goes_by_positions(rig: Rig) -> None:
    """All tokens of a position go together, and those that come next have the ordinals of the ones that went."""
    options = Options(budget=100, buffer=8, n_ubatch=16)
    cache = new_sequence(SMALL.n_layer, SMALL.n_head_kv, options)
    rng = np.random.default_rng(0)
    with rig.session(options) as session:
        advance(session, cache, [(token, i // 8, 0) for i, token in enumerate(rng.integers(3, N_VOCAB, 40).tolist())])
        assert session.try_remove(3, -1) and cache.cut(3, -1)
        assert session.n_seen() == cache.next_pos == 3 and session.stats().n_seen == cache.n_seen == 24
        assert_same_cells(session, cache)
        advance(session, cache, crowded_rows(rng, rng.integers(3, N_VOCAB, 60).tolist(), 3))


def test_a_pin_counts_all_tokens_of_its_positions(rig: Rig) -> None:
    with rig.session(Options(budget=30, n_ubatch=16)) as session:
        session.decode_rows([(5, i // 10, 0) for i in range(20)])  # ten tokens at each of two positions
        session.pin(0, 1)
        assert not retain_h.pin(session.handle, 0, 1, 13)
        assert "31 tokens are kept" in retain_h.error_text()  # of the eleven positions two have ten
        session.pin(1, 12)


@pytest.fixture(scope="module")
def picture_rig(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("pictures")
    model = Model(write_tiny_model(folder / "m.gguf", PICTURES))
    gates = random_gates(PICTURES.n_layer, PICTURES.n_embd, PICTURES.n_head_kv)
    yield model, write_tiny_gates(folder / "m.gates.gguf", model.path, PICTURES, gates)
    model.close()


def picture(first: int, n_rows: int, n_columns: int) -> np.ndarray:
    """M-RoPE positions of a picture, [4, n] int32: one time for all, rows and columns counted from it."""
    row, column = np.divmod(np.arange(n_rows * n_columns), n_columns)
    return np.stack([np.full_like(row, first), first + row, first + column, 0 * row])


@pytest.mark.parametrize("policy", ["gate", "window", "random"])
def test_a_picture_ages_by_its_tokens(picture_rig: tuple[Model, Path], policy: str) -> None:
    """Text, a picture of 1,000 tokens over 32 positions, text, and a second picture, against the reference."""
    model, gates = picture_rig
    options = Options(budget=120, buffer=40, n_ubatch=64, n_sink=3, n_recent=10, policy=policy)
    cache = Cache(PICTURES.n_layer, PICTURES.n_head_kv, options)
    capture = Capture({"retention_log_beta": PICTURES.n_head_kv})
    rng = np.random.default_rng(1)
    retain = {**retain_fields(options), "gates": gates}

    def compare(positions: np.ndarray) -> None:
        log_beta = capture.take("retention_log_beta", PICTURES.n_layer)
        for start in range(0, len(positions), options.n_ubatch):
            cache.add(positions[start : start + options.n_ubatch], log_beta[:, start : start + options.n_ubatch])
        assert_same_cells(session, cache)
        assert_within_budget(session, cache)

    with RetainedSession(model, retain, capture=capture, n_ctx=4096, n_batch=1024, n_ubatch=64) as session:

        def read_text(first: int, n: int) -> None:
            session.decode_rows([(token, first + i, 0) for i, token in enumerate(rng.integers(3, N_VOCAB, n).tolist())])
            compare(first + np.arange(n))

        def see_picture(first: int, n_rows: int, n_columns: int) -> None:
            positions = picture(first, n_rows, n_columns)
            session.decode_embeddings(rng.normal(0, 1, (positions.shape[1], PICTURES.n_embd)), positions)
            compare(positions[0])

        read_text(0, 50)
        before = session.stats().n_seen
        see_picture(50, 25, 40)
        assert session.stats().n_seen == before + 1000 and session.n_seen() == 51
        read_text(50 + 40, 30)
        see_picture(120, 9, 9)
        read_text(129, 100)
        assert session.stats().n_seen == 50 + 1000 + 30 + 81 + 100 and session.n_seen() == 229
        assert session.restore(session.state())
        read_text(229, 50)


def test_pins_that_tokens_crowded_into_go_with_their_sequence(rig: Rig) -> None:
    """More tokens than the budget may come to positions that are pinned ahead; the cap holds, and states are taken back."""
    options = Options(budget=12, buffer=4, n_ubatch=16)
    with rig.session(options) as session:
        session.pin(0, 3)
        session.decode_rows([(5, i // 8, 0) for i in range(48)])
        session.decode_rows([(5, 6, 0)])
        stats = session.stats()
        assert stats.n_cells == 13 * stats.n_cell_lists and stats.n_cells_peak <= stats.n_cells_max
        state = session.state(0)
        assert session.restore(state, 0), retain_h.error_text()
        assert session.state(0) == state
