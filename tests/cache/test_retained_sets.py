"""Which cells are kept: after every ubatch exactly those of an independent implementation of the method.

The reference gets the log betas that llama.cpp computed; that these are right is checked against the gates in NumPy.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from retain_local.bindings.capture import Capture
from retain_local.gates import gate_output, read_sidecar
from support.llama_session import CELL_TYPES
from support.reference import Options
from support.retained import RetainedSession, assert_same_cells, retain_fields
from support.rig import N_BATCH, N_CTX, SMALL, WINDOW, Plan, Rig, advance, cache_for, open_rig, plans
from support.tiny_gates import random_gates, write_tiny_gates
from support.tiny_models import N_VOCAB


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory):
    rig = open_rig(tmp_path_factory.mktemp("sets"))
    yield rig
    rig.model.close()


@settings(max_examples=150)
@given(plan=plans())
def test_kept_cells_equal_the_reference_after_every_batch(rig: Rig, plan: Plan) -> None:
    cache = cache_for(plan.options)
    with rig.session(plan.options, plan.gates) as session:
        for i, tokens in enumerate(plan.tokens()):
            if i in plan.pins:
                session.pin(*plan.pins[i])
                cache.pinned.append(plan.pins[i])
            advance(session, cache, tokens)


@settings(max_examples=50)
@given(plan=plans())
def test_kept_cells_equal_the_reference_after_every_ubatch(rig: Rig, plan: Plan) -> None:
    """The same with one ubatch per call, so that the state between ubatches is seen as well."""
    cache = cache_for(plan.options)
    with rig.session(plan.options, plan.gates) as session:
        for tokens in plan.tokens():
            for start in range(0, len(tokens), plan.options.n_ubatch):
                advance(session, cache, tokens[start : start + plan.options.n_ubatch])


def test_evictions_really_choose(rig: Rig) -> None:
    """The plans mean something: streams differ in length, and old cells stay while newer ones go."""
    options = Options(budget=32, n_ubatch=16)
    with rig.session(options) as session:
        session.decode(np.random.default_rng(0).integers(3, N_VOCAB, 200).tolist())
        session.decode([5])  # before it the eviction runs that was due
        streams = [session.cell_list(il, head)[0] for il in range(SMALL.n_layer) for head in range(SMALL.n_head_kv)]
    lengths = [len(pos) for pos in streams]
    assert sum(lengths) == 33 * len(streams)
    assert max(lengths) > 2 * min(lengths)
    assert any((pos < 60).any() for pos in streams)


def test_unpinned_cells_go_and_a_smaller_budget_evicts_at_once(rig: Rig) -> None:
    options = Options(budget=40, n_ubatch=16, n_sink=2, n_recent=3)
    cache = cache_for(options)
    tokens = np.random.default_rng(0).integers(3, N_VOCAB, 300).tolist()
    with rig.session(options) as session:
        session.pin(4, 16)
        cache.pinned.append((4, 16))
        for start in range(0, 150, 50):
            advance(session, cache, tokens[start : start + 50])
        pinned = {*range(4, 16)}
        assert all(pinned <= {*session.cell_list(il, h)[0].tolist()} for il in range(3) for h in range(2))

        session.unpin(10, 12)
        cache.pinned.clear()
        advance(session, cache, tokens[150:200])
        assert not all(pinned <= {*session.cell_list(il, h)[0].tolist()} for il in range(3) for h in range(2))

        session.set_budget(20)
        cache.options = replace(options, budget=20)
        cache.evict()
        assert_same_cells(session, cache)
        advance(session, cache, tokens[200:250])


def test_full_prefill_evicts_once(rig: Rig) -> None:
    """With evictions held back a prompt stays whole; after the release one eviction over all of it comes with the next token."""
    options = Options(budget=24, buffer=8, n_ubatch=16)
    cache = cache_for(options)
    cache.n_max, cache.hold = N_CTX * cache.n_cell_lists, True
    tokens = np.random.default_rng(0).integers(3, N_VOCAB, 120).tolist()
    retain = {**retain_fields(options), "gates": rig.gates["rg10 tied"], "prefill": 1}
    capture = Capture({"retention_log_beta": SMALL.n_head_kv})
    with RetainedSession(rig.model, retain, capture=capture, n_ctx=N_CTX, n_batch=N_BATCH, n_ubatch=16) as session:
        session.hold(True)
        session.decode(tokens)
        cache.extend(capture.take("retention_log_beta", SMALL.n_layer))
        assert session.n_cells() == len(tokens) * cache.n_cell_lists
        session.hold(False)
        cache.set_hold(False)
        assert_same_cells(session, cache)
        assert session.restore(session.state(0), 0), "what is due goes with a state"
        for n in (1, 4, 20):
            session.decode(tokens[:n])
            cache.extend(capture.take("retention_log_beta", SMALL.n_layer))
            assert_same_cells(session, cache)
        assert session.stats().n_evictions == cache.n_evictions == 2


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("cell_type", CELL_TYPES)
def test_every_cell_type_and_thread_count(rig: Rig, cell_type: str, n_threads: int) -> None:
    options = Options(budget=24, buffer=4, n_ubatch=16, n_sink=1)
    cache = cache_for(options)
    rng = np.random.default_rng(0)
    with rig.session(options, cell_type=cell_type, n_threads=n_threads) as session:
        for n in (50, 1, 1, 40, 7, 30):
            advance(session, cache, rng.integers(3, N_VOCAB, n).tolist())
        assert_bytes(session, cell_type)


BYTES_PER_32 = {"f32": 128, "f16": 64, "bf16": 64, "q8_0": 34, "q4_0": 18}


def assert_bytes(session: RetainedSession, cell_type: str) -> None:
    """Bytes are what the formula says: cells of a K and a V row, in pages, as many as the budget needs."""
    stats = session.stats()
    n_cell_lists = SMALL.n_layer * SMALL.n_head_kv
    assert stats.n_cell_lists == n_cell_lists
    assert stats.bytes_cell == 2 * SMALL.head_size // 32 * BYTES_PER_32[cell_type]
    bytes_page = stats.page_size * stats.bytes_cell
    assert stats.bytes_pool == stats.n_pages * bytes_page
    assert stats.bytes_used == stats.n_pages_used * bytes_page
    assert stats.bytes_full == stats.n_seen * n_cell_lists * stats.bytes_cell
    # a stream is full pages and one that is not, so the pool never needs more than this
    assert stats.n_pages == stats.n_cells_max // stats.page_size + n_cell_lists
    lengths = [len(session.cell_list(il, head)[0]) for il in range(SMALL.n_layer) for head in range(SMALL.n_head_kv)]
    assert stats.n_pages_used == sum(-(-n // stats.page_size) for n in lengths)


@pytest.mark.parametrize("form", ["linear", "mlp", "fast_kvzip"])
def test_static_scores_are_those_of_the_gates_for_every_thread_count(rig: Rig, form: str) -> None:
    """And the newest cells of their window stay, however low their scores."""
    options = Options(budget=40, n_ubatch=16, is_static=True, window=WINDOW)
    tokens = np.random.default_rng(0).integers(3, N_VOCAB, 200).tolist()
    kept = []
    for n_threads in (1, 2, 3):
        cache = cache_for(options)
        with rig.session(options, f"static {form}", n_threads=n_threads) as session:
            for start in range(0, 200, 50):
                session.decode(tokens[start : start + 50])
                hidden = session.capture.take("attn_norm", SMALL.n_layer)
                scores = session.capture.take("retention_log_beta", SMALL.n_layer)
                cache.extend(scores)
                assert_same_cells(session, cache)
                stored = read_sidecar(rig.gates[f"static {form}"]).gates
                for il in range(SMALL.n_layer):
                    np.testing.assert_allclose(scores[il], gate_output(stored, il, hidden[il]), rtol=1e-5, atol=1e-5)
            for il, head in np.ndindex(SMALL.n_layer, SMALL.n_head_kv):
                assert {*range(200 - WINDOW, 200)} <= {*session.cell_list(il, head)[0].tolist()}
            kept.append(
                [session.cell_list(il, head)[0].tolist() for il, head in np.ndindex(SMALL.n_layer, SMALL.n_head_kv)]
            )
    assert kept[0] == kept[1] == kept[2]


@pytest.mark.parametrize("page_size", [8, 32, 256])
def test_the_page_size_changes_no_decision(rig: Rig, page_size: int) -> None:
    options = Options(budget=24, n_ubatch=16)
    cache = cache_for(options)
    retain = {**retain_fields(options), "gates": rig.gates["rg10 tied"], "page_size": page_size}
    capture = Capture({"retention_log_beta": SMALL.n_head_kv})
    rng = np.random.default_rng(0)
    with RetainedSession(rig.model, retain, capture=capture, n_ctx=N_CTX, n_batch=N_BATCH, n_ubatch=16) as session:
        for _ in range(4):
            advance(session, cache, rng.integers(3, N_VOCAB, 40).tolist())
        assert session.stats().page_size == page_size


# Gates in f32 differ from NumPy by float noise; f16 and q8_0 weights are multiplied with inputs rounded to their type.
LOG_BETA_ERROR = {"f32": 2e-5, "f16": 5e-3, "q8_0": 5e-2}


@pytest.mark.parametrize(("variant", "tied"), [("rg10", True), ("rg10", False), ("rg", False)])
@pytest.mark.parametrize("weight_type", LOG_BETA_ERROR)
@pytest.mark.parametrize("activation", ["silu", "gelu", "relu"])
def test_log_betas_are_those_of_the_gates(
    rig: Rig, tmp_path: Path, variant: str, tied: bool, weight_type: str, activation: str
) -> None:
    gates = random_gates(SMALL.n_layer, SMALL.n_embd, SMALL.n_head_kv, variant, tied)
    path = write_tiny_gates(
        tmp_path / "g.gguf", rig.model.path, SMALL, replace(gates, activation=activation), weight_type
    )
    capture = Capture({"retention_log_beta": SMALL.n_head_kv, "attn_norm": SMALL.n_embd})
    retain = {"budget": 40, "gates": path}
    with RetainedSession(rig.model, retain, capture=capture, n_ctx=N_CTX, n_batch=64, n_ubatch=32) as session:
        session.decode(np.random.default_rng(0).integers(3, N_VOCAB, 64).tolist())
    hidden = capture.take("attn_norm", SMALL.n_layer)
    computed = capture.take("retention_log_beta", SMALL.n_layer)
    stored = read_sidecar(path).gates
    error = LOG_BETA_ERROR["f16"] if (activation, weight_type) == ("gelu", "f32") else LOG_BETA_ERROR[weight_type]
    for il in range(SMALL.n_layer):
        expected = gate_output(stored, il, hidden[il])
        # log beta is logsigmoid(u): its error is at most that of u
        np.testing.assert_allclose(computed[il], expected, rtol=error, atol=error)
        assert np.ptp(expected) > 0.2
