"""Policies and the eviction hook: what else than gates can decide, and switching between them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retain_local.bindings import retain_h
from retain_local.bindings.capture import Capture
from retain_local.errors import RetainError
from retain_local.options.retention_options import policies
from support.llama_session import Session
from support.reference import Options
from support.retained import RetainedSession, assert_same_cells, retain_fields
from support.rig import GATES, SMALL, Plan, Rig, advance, cache_for, open_rig, plans
from support.tiny_models import N_VOCAB

REGISTRY = tuple(retain_h.policies())
TOKENS = np.random.default_rng(0).integers(3, N_VOCAB, 300).tolist()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory):
    rig = open_rig(tmp_path_factory.mktemp("policies"))
    yield rig
    rig.model.close()


def test_the_options_name_every_policy_of_the_library() -> None:
    assert policies() == ("auto", *REGISTRY)
    assert all(retain_h.policies().values())


@pytest.mark.parametrize("cell_type", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("policy", REGISTRY)
def test_a_budget_that_covers_the_text_changes_nothing(rig: Rig, policy: str, cell_type: str) -> None:
    """Every policy gives the bits that "none" gives, and with f32 cells those of a stock context up to float noise."""
    context = {"cell_type": cell_type, "n_ctx": 256, "n_ubatch": 16}

    def logits(policy: str) -> np.ndarray:
        with rig.session(Options(budget=200, n_ubatch=16, policy=policy), cell_type=cell_type) as session:
            rows = [session.decode(TOKENS[:150]), *(session.decode([token]) for token in TOKENS[150:180])]
            assert session.stats().n_evicted == 0
        return np.concatenate(rows)

    computed = logits(policy)
    np.testing.assert_array_equal(computed, logits("none"))
    if cell_type == "f32":
        with Session(rig.model, **context, flash_attn=False) as stock:  # with it, f32 cells are rounded to f16
            expected = np.concatenate([stock.decode(TOKENS[:150]), *(stock.decode([t]) for t in TOKENS[150:180])])
        np.testing.assert_allclose(computed, expected, atol=1e-5 * expected.std())


@pytest.mark.parametrize("policy", [name for name in REGISTRY if name != "none"])
def test_every_policy_keeps_the_promises_of_the_cache(rig: Rig, policy: str) -> None:
    """The budget after every call, the pool's cap, sinks, the recent window and pins."""
    options = Options(budget=40, buffer=4, n_ubatch=16, n_sink=2, n_recent=6, policy=policy, seed=3)
    with rig.session(options) as session:
        session.pin(9, 13)
        for start in range(0, 250, 25):
            session.decode(TOKENS[start : start + 25])
            assert session.n_cells() <= session.stats().n_cells_peak <= 56 * 6
            n = session.n_seen()
            protected = {0, 1, *range(n - 6, n), *(range(9, 13) if n > 13 else [])}
            for il in range(SMALL.n_layer):
                for head in range(SMALL.n_head_kv):
                    assert protected <= {*session.cell_list(il, head)[0].tolist()}


@pytest.mark.parametrize("policy", REGISTRY)
def test_only_a_policy_that_looks_at_queries_makes_the_graph_hand_them_out(rig: Rig, policy: str) -> None:
    retain = {**retain_fields(Options(budget=200, policy=policy)), "gates": rig.gates["rg10 tied"]}
    capture = Capture({"retention_queries": SMALL.n_embd_q})
    with RetainedSession(rig.model, retain, capture=capture, n_ctx=256, n_batch=96, n_ubatch=96) as session:
        session.decode(TOKENS[:90])
        session.decode(TOKENS[90:95])
        sizes = {name: [len(rows) for rows in values] for name, values in capture.values.items()}
        names = [f"retention_queries-{il}" for il in range(SMALL.n_layer)] if policy == "snapkv" else []
        assert sizes == {name: [64, 5] for name in names}  # of a long batch the last ones alone
        n_query = SMALL.n_layer * SMALL.n_embd_q
        n_state = len(session.state(0))
        retain_h.check(retain_h.set_policy(session.handle, b"window"))
        assert n_state - len(session.state(0)) == (64 * 4 * (2 + n_query) if names else 0)


@settings(max_examples=30)
@given(plan=plans(), gates=st.sampled_from([None, *GATES]))
def test_window_keeps_sinks_and_the_newest(rig: Rig, plan: Plan, gates: str | None) -> None:
    options = replace(plan.options, policy="window")
    cache = cache_for(options)
    with rig.session(options, gates) as session:
        for tokens in plan.tokens():
            if gates is None:  # nothing computes log betas, and the policy reads none
                session.decode(tokens)
                cache.extend(np.zeros((SMALL.n_layer, len(tokens), SMALL.n_head_kv), np.float32))
                assert_same_cells(session, cache)
            else:
                advance(session, cache, tokens)
        session.set_budget(options.budget)  # evicts at once
        cache.evict()
        if options.min_per_head == 0 and cache.n_evictions:
            n = cache.n_seen
            expected = {*range(options.n_sink), *range(n - options.budget + options.n_sink, n)}
            assert {*session.cell_list(0, 0)[0].tolist()} == expected


@settings(max_examples=30)
@given(plan=plans(), seed=st.integers(0, 2**32 - 1))
def test_random_keeps_a_sample_that_follows_from_the_seed(rig: Rig, plan: Plan, seed: int) -> None:
    options = replace(plan.options, policy="random", seed=seed)
    cache = cache_for(options)
    with rig.session(options, plan.gates) as session:
        for tokens in plan.tokens():
            advance(session, cache, tokens)


def callback_scores(layer, head, pos, age, log_beta) -> np.ndarray:
    """Scores that depend on all that the hook is given, with ties."""
    return ((layer * 7 + head * 3 + pos * 5 + age) % 11).astype(np.float32) + np.sign(log_beta + 0.05)


@settings(max_examples=30)
@given(plan=plans(), own=st.booleans())
def test_the_hook_decides(rig: Rig, plan: Plan, own: bool) -> None:
    """A callback sees every cell with the right numbers, and its scores replace the policy's, or not if it declines."""
    cache = cache_for(plan.options)
    n_calls = 0

    def hook(seq_id, n_seen, layer, head, pos, log_beta, age):
        nonlocal n_calls
        n_calls += 1
        assert seq_id == 0
        np.testing.assert_array_equal(age, n_seen + 1 - pos)
        assert len(set(zip(layer.tolist(), head.tolist(), pos.tolist()))) == len(pos)
        assert np.isfinite(log_beta).all() and (plan.options.is_static or (log_beta <= 0).all())
        return callback_scores(layer, head, pos, age, log_beta) if own else None

    if own:
        cache.score = lambda c: callback_scores(c.layer, c.head, c.pos, c.n_seen + 1 - c.pos, c.log_beta)
    with rig.session(plan.options, plan.gates) as session:
        session.set_callback(hook)
        for tokens in plan.tokens():
            advance(session, cache, tokens)
    assert n_calls >= cache.n_evictions


def test_a_switched_policy_scores_with_the_log_betas_of_before(rig: Rig) -> None:
    options = Options(budget=32, n_ubatch=16, n_sink=1)
    cache = cache_for(options)
    with rig.session(options) as session:
        for i, policy in enumerate(("gate", "window", "gate", "window")):
            retain_h.check(retain_h.set_policy(session.handle, policy.encode()))
            assert retain_h.get_policy(session.handle).decode() == policy
            cache.options = replace(options, policy=policy)
            advance(session, cache, TOKENS[50 * i : 50 * i + 50])


def test_the_gate_policy_needs_gates_and_names_are_checked(rig: Rig) -> None:
    with rig.session(Options(budget=32, n_ubatch=16, policy="window"), gates=None) as session:
        for name, reason in (("gate", "gate"), ("fifo", "window")):
            with pytest.raises(RetainError, match=reason):
                retain_h.check(retain_h.set_policy(session.handle, name.encode()))
        assert retain_h.get_policy(session.handle) == b"window"


def test_policy_none_keeps_everything_until_nothing_fits(rig: Rig) -> None:
    options = Options(budget=64, n_ubatch=16, policy="none")
    with rig.session(options) as session:
        session.decode(TOKENS[:60])
        with pytest.raises(RuntimeError):
            session.decode(TOKENS[60:70])
        assert "64" in retain_h.error_text()
        assert session.n_seen() == 60
        for il in range(SMALL.n_layer):
            for head in range(SMALL.n_head_kv):
                assert session.cell_list(il, head)[0].tolist() == list(range(60))
        session.decode(TOKENS[60:64])
        assert session.stats().n_evicted == 0
