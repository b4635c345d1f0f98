"""Which cells are kept: after every ubatch exactly those of an independent implementation of the method.

The reference cache gets the log betas that llama.cpp computed, taken through its evaluation callback, so positions and
log betas must agree to the bit. That the log betas themselves are right is checked against the gates in NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retain_local.gates import log_beta, read_sidecar

from support.libraries import require_patched

require_patched()

from support.capture import Capture  # noqa: E402
from support.reference import Cache, Options, Range  # noqa: E402
from support.retained import RetainedSession, assert_same_cells, retain_fields  # noqa: E402
from support.session import CELL_TYPES, Model  # noqa: E402
from support.tiny_gates import constant_gates, random_gates, write_tiny_gates  # noqa: E402
from support.tiny_models import N_VOCAB, TinyModel, write_tiny_model  # noqa: E402

SMALL = TinyModel("llama", n_layer=3, n_embd=64, n_head=4, n_head_kv=2, n_ff=64)
N_BATCH = 64
N_CTX = 1024

# uneven: some heads score equally at equal positions, and some differ by the last bit of a float32, while two others
# make the budget end among them; saturated: beta is 1 in float32, so all scores are equal
GATES = ("rg10 tied", "rg10 untied", "rg", "uneven", "saturated")
NEAR = np.nextafter(np.float32(-3), np.float32(-4))
UNEVEN = np.array([[1, 4], [-3, NEAR], [NEAR, -3]], np.float32)


@dataclass
class Rig:
    """The small model and its sidecars, loaded once."""

    model: Model
    gates: dict[str, Path]

    def session(self, options: Options, gates: str | None = "rg10 tied", **context) -> RetainedSession:
        retain = retain_fields(options)
        if gates is not None:
            retain["gates"] = self.gates[gates]
        capture = Capture({"retention_log_beta": SMALL.n_head_kv, "attn_norm": SMALL.n_embd})
        defaults = {"n_ctx": N_CTX, "n_batch": N_BATCH}
        return RetainedSession(self.model, retain, capture=capture, n_ubatch=options.n_ubatch, **defaults, **context)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("sets")
    model_path = write_tiny_model(folder / "m.gguf", SMALL)
    sizes = SMALL.n_layer, SMALL.n_embd, SMALL.n_head_kv
    kinds = {
        "rg10 tied": random_gates(*sizes),
        "rg10 untied": random_gates(*sizes, tied=False),
        "rg": random_gates(*sizes, variant="rg", tied=False),
        "uneven": constant_gates(SMALL.n_embd, UNEVEN),
        "saturated": constant_gates(SMALL.n_embd, np.full_like(UNEVEN, 200)),
    }
    assert tuple(kinds) == GATES
    gates = {
        kind: write_tiny_gates(folder / f"{i}.gates.gguf", model_path, SMALL, gates)
        for i, (kind, gates) in enumerate(kinds.items())
    }
    rig = Rig(Model(model_path), gates)
    yield rig
    rig.model.close()


def cache_for(options: Options) -> Cache:
    return Cache(SMALL.n_layer, SMALL.n_head_kv, options)


def advance(session: RetainedSession, cache: Cache, tokens: list[int]) -> None:
    """Decode tokens as one batch, give the reference their log betas, and compare everything that must agree."""
    session.decode(tokens)
    if session.capture.values:
        cache.extend(session.capture.take("retention_log_beta", SMALL.n_layer))
        session.capture.values.clear()
    assert_same_cells(session, cache)
    assert_within_budget(session, cache)


def assert_within_budget(session: RetainedSession, cache: Cache) -> None:
    """The cap of the pool and the rule of eviction, from what the library says about itself."""
    stats, options = session.stats(), cache.options
    assert stats.n_cells_max == cache.n_max
    assert stats.n_cells <= stats.n_cells_peak <= cache.n_max
    assert stats.n_cells <= cache.n_kept or stats.n_cells < cache.n_kept + cache.n_streams * options.buffer
    assert stats.n_seen == cache.n_seen
    assert stats.n_evictions == cache.n_evictions
    assert stats.n_evicted == cache.n_seen * cache.n_streams - cache.n_cells


@dataclass
class Plan:
    """A run: how the cache is set up, the batches that come in, and ranges pinned before some of them."""

    options: Options
    gates: str
    batches: list[int]
    pins: dict[int, Range] = field(default_factory=dict)
    seed: int = 0

    def tokens(self) -> list[list[int]]:
        rng = np.random.default_rng(self.seed)
        return [rng.integers(3, N_VOCAB, n).tolist() for n in self.batches]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    n_sink, n_recent = draw(st.integers(0, 4)), draw(st.integers(0, 8))
    pins = draw(st.dictionaries(st.integers(0, 5), st.tuples(st.integers(0, 80), st.integers(1, 6)), max_size=2))
    n_pinned = sum(n for _, n in pins.values())
    budget = n_sink + n_recent + n_pinned + draw(st.integers(1, 60))
    options = Options(
        budget=budget,
        buffer=draw(st.integers(0, 24)),
        n_ubatch=draw(st.integers(1, 40)),
        lookahead=draw(st.sampled_from([1, 1, 2, 3, 16, 128])),
        n_sink=n_sink,
        n_recent=n_recent,
        min_per_head=draw(st.integers(0, min(8, budget))),
    )
    return Plan(
        options=options,
        gates=draw(st.sampled_from(GATES)),
        batches=draw(st.lists(st.integers(1, N_BATCH), min_size=3, max_size=10)),
        pins={i: (start, start + n) for i, (start, n) in pins.items()},
        seed=draw(st.integers(0, 1000)),
    )


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
        streams = [session.stream(il, head)[0] for il in range(SMALL.n_layer) for head in range(SMALL.n_head_kv)]
    lengths = [len(pos) for pos in streams]
    assert sum(lengths) == 32 * len(streams)
    assert max(lengths) > 2 * min(lengths)
    assert any((pos < 60).any() for pos in streams)


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
        if options.min_per_head == 0 and cache.n_evictions and cache.n_cells == cache.n_kept:
            n = cache.n_seen
            expected = {*range(options.n_sink), *range(n - options.budget + options.n_sink, n)}
            assert {*session.stream(0, 0)[0].tolist()} == expected


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
        assert np.isfinite(log_beta).all() and (log_beta <= 0).all()
        return callback_scores(layer, head, pos, age, log_beta) if own else None

    if own:
        cache.score = lambda c: callback_scores(c.layer, c.head, c.pos, c.n_seen + 1 - c.pos, c.log_beta)
    with rig.session(plan.options, plan.gates) as session:
        session.set_callback(hook)
        for tokens in plan.tokens():
            advance(session, cache, tokens)
    assert n_calls >= cache.n_evictions


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
        assert all(pinned <= {*session.stream(il, h)[0].tolist()} for il in range(3) for h in range(2))

        session.unpin(10, 12)
        cache.pinned.clear()
        advance(session, cache, tokens[150:200])
        assert not all(pinned <= {*session.stream(il, h)[0].tolist()} for il in range(3) for h in range(2))

        session.set_budget(20)
        cache.options = replace(options, budget=20)
        cache.evict()
        assert_same_cells(session, cache)
        advance(session, cache, tokens[200:250])


def test_full_prefill_evicts_once(rig: Rig) -> None:
    """With evictions held back a prompt stays whole; releasing it evicts as one eviction over all of it."""
    options = Options(budget=24, n_ubatch=16)
    cache = cache_for(replace(options, buffer=N_CTX))  # the reference evicts only when told
    tokens = np.random.default_rng(0).integers(3, N_VOCAB, 120).tolist()
    retain = {**retain_fields(options), "gates": rig.gates["rg10 tied"], "prefill": 1}
    capture = Capture({"retention_log_beta": SMALL.n_head_kv})
    with RetainedSession(rig.model, retain, capture=capture, n_ctx=N_CTX, n_batch=N_BATCH, n_ubatch=16) as session:
        session.hold(True)
        session.decode(tokens)
        cache.extend(capture.take("retention_log_beta", SMALL.n_layer))
        assert session.n_cells() == len(tokens) * cache.n_streams
        session.hold(False)
        cache.evict()
        assert_same_cells(session, cache)
        assert session.stats().n_evictions == 1


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
    n_streams = SMALL.n_layer * SMALL.n_head_kv
    assert stats.n_streams == n_streams
    assert stats.bytes_cell == 2 * SMALL.head_size // 32 * BYTES_PER_32[cell_type]
    bytes_page = stats.page_size * stats.bytes_cell
    assert stats.bytes_pool == stats.n_pages * bytes_page
    assert stats.bytes_used == stats.n_pages_used * bytes_page
    assert stats.bytes_full == stats.n_seen * n_streams * stats.bytes_cell
    # a stream is full pages and one that is not, so the pool never needs more than this
    assert stats.n_pages == stats.n_cells_max // stats.page_size + n_streams
    lengths = [len(session.stream(il, head)[0]) for il in range(SMALL.n_layer) for head in range(SMALL.n_head_kv)]
    assert stats.n_pages_used == sum(-(-n // stats.page_size) for n in lengths)


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
        expected = log_beta(stored, il, hidden[il])
        # log beta is logsigmoid(u): its error is at most that of u
        np.testing.assert_allclose(computed[il], expected, rtol=error, atol=error)
        assert np.ptp(expected) > 0.2
