"""Models that mix full attention with sliding windows or recurrent layers: the pool holds the layers with full attention.

What is true of plain models is true of these: without eviction they are stock llama.cpp, with eviction the cells are those
of the reference, and what was in the cache before changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import TinyFiles
from retain_local.bindings import retain_h
from retain_local.bindings.capture import Capture
from retain_local.gates import gate_output, read_sidecar
from support.libraries import PATCHED, require_stock
from support.llama_session import Model
from support.reference import SCOPES, Cache, Options
from support.retained import RetainedSession, retain_fields
from support.rig import assert_within_budget
from support.tiny_models import MIXED_MODELS, N_VOCAB, WRITTEN, TinyModel
from support.worker import run_worker

STOCK = require_stock()

N_CTX = 512
PROMPT = [1, *np.random.default_rng(1).integers(3, N_VOCAB, 199).tolist()]
# in standard deviations of the logits; GELU is read from a table of f16 numbers, see test_stock_equivalence.py
TOLERANCE = {"f32": 1e-3, "f16": 5e-3, "q8_0": 2e-2}


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    """Equal logits up to rounding: cells of a window may lie elsewhere in it, and are then added in another order."""
    assert np.abs(found - wanted).max() <= 5e-3 * wanted[:, WRITTEN].std()


class Loaded:
    """A mixed model with gates on the layers of its pool."""

    def __init__(self, tiny: TinyFiles, arch: str) -> None:
        self.shape: TinyModel = MIXED_MODELS[arch]
        self.model = Model(tiny.model(arch))
        self.gates = tiny.gates(arch)

    def session(self, options: Options, **context) -> RetainedSession:
        retain = {**retain_fields(options), "gates": self.gates}
        capture = Capture({"retention_log_beta": self.shape.n_head_kv})
        defaults = {
            "n_ctx": N_CTX,
            "n_batch": 64,
            "n_ubatch": options.n_ubatch,
            "cell_type": "f32",
            "flash_attn": False,
        }
        return RetainedSession(self.model, retain, capture=capture, **{**defaults, **context})

    def cache(self, options: Options) -> Cache:
        return Cache(len(self.shape.pool_layers), self.shape.n_head_kv, options)

    def advance(self, session: RetainedSession, cache: Cache, tokens: list[int]) -> None:
        """Decode tokens as one batch, give the reference their log betas, and compare."""
        session.decode(tokens)
        computed = [session.capture.values[f"retention_log_beta-{il}"] for il in self.shape.pool_layers]
        cache.extend(np.stack([np.concatenate(layer) for layer in computed]))
        session.capture.values.clear()
        for i, il in enumerate(self.shape.pool_layers):
            for head in range(self.shape.n_head_kv):
                for found, wanted in zip(session.cell_list(il, head), cache.cell_list(i, head)):
                    np.testing.assert_array_equal(found, wanted, err_msg=f"layer {il}, head {head}")
        assert_within_budget(session, cache)


@pytest.fixture(scope="module", params=MIXED_MODELS)
def loaded(request: pytest.FixtureRequest, tiny: TinyFiles):
    loaded = Loaded(tiny, request.param)
    yield loaded
    loaded.model.close()


@pytest.mark.parametrize("arch", MIXED_MODELS)
def test_same_logits_as_stock_without_eviction(tiny: TinyFiles, tmp_path: Path, arch: str) -> None:
    kinds = [("f32", 512), ("f16", 16), ("q8_0", 16)]
    steps = [("decode", PROMPT), ("greedy", 16)]
    runs = [
        {"context": {"cell_type": t, "n_ubatch": n, "n_ctx": N_CTX, "flash_attn": t == "q8_0"}, "steps": steps}
        for t, n in kinds
    ]
    stock = run_worker(tmp_path, tiny.model(arch), runs, STOCK)
    retain = {"budget": N_CTX, "gates": str(tiny.gates(arch))}
    ours = run_worker(tmp_path, tiny.model(arch), [{**run, "retain": retain} for run in runs], PATCHED)
    for i, (cell_type, _) in enumerate(kinds):
        scale = stock[f"{i}.0.logits"][:, WRITTEN].std()
        for step in (0, 1):
            difference = np.abs(ours[f"{i}.{step}.logits"] - stock[f"{i}.{step}.logits"]).max() / scale
            assert difference <= TOLERANCE[cell_type], f"{cell_type}, step {step}"


@st.composite
def plans(draw: st.DrawFn) -> tuple[Options, list[list[int]]]:
    budget = draw(st.integers(8, 60))
    options = Options(
        budget=budget,
        buffer=draw(st.integers(0, 24)),
        n_ubatch=draw(st.integers(1, 40)),
        lookahead=draw(st.sampled_from([1, 16])),
        n_sink=draw(st.integers(0, 4)),
        n_recent=draw(st.integers(0, 4)),
        scope=draw(st.sampled_from(SCOPES)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    return options, [
        rng.integers(3, N_VOCAB, n).tolist() for n in draw(st.lists(st.integers(1, 64), min_size=2, max_size=6))
    ]


@settings(max_examples=40)
@given(plan=plans())
def test_kept_cells_equal_the_reference(loaded: Loaded, plan: tuple[Options, list[list[int]]]) -> None:
    options, batches = plan
    cache = loaded.cache(options)
    with loaded.session(options) as session:
        for tokens in batches:
            loaded.advance(session, cache, tokens)


def test_layers_and_bytes_are_those_of_the_pool(loaded: Loaded) -> None:
    shape, options = loaded.shape, Options(budget=40, buffer=8, n_ubatch=32)
    with loaded.session(options) as session:
        stats = session.stats()
        layers = (retain_h.c_int32 * shape.n_layer)()
        n = retain_h.layers(session.handle, layers, shape.n_layer)
        assert layers[:n] == shape.pool_layers
        assert stats.n_cell_lists == len(shape.pool_layers) * shape.n_head_kv
        session.decode(PROMPT[:64])
        after = session.stats()
    assert after.bytes_fixed == stats.bytes_fixed > 0
    assert after.bytes_full == 64 * stats.n_cell_lists * stats.bytes_cell


def test_gates_read_what_the_projections_read(loaded: Loaded) -> None:
    shape, gates = loaded.shape, read_sidecar(loaded.gates).gates
    norm = "model.layers.{}.operator_norm" if shape.arch == "lfm2" else "attn_norm"
    capture = Capture({"retention_log_beta": shape.n_head_kv, norm: shape.n_embd})
    retain = {"budget": N_CTX, "gates": loaded.gates}
    with RetainedSession(loaded.model, retain, capture=capture, n_ctx=N_CTX, cell_type="f32") as session:
        session.decode(PROMPT[:50])
    for il in shape.pool_layers:
        log_beta, hidden = (np.concatenate(capture.values[f"{name}-{il}"]) for name in ("retention_log_beta", norm))
        np.testing.assert_allclose(log_beta, gate_output(gates, il, hidden), atol=1e-4)
    assert {name.rpartition("-")[2] for name in capture.values if "log_beta" in name} == {*map(str, shape.pool_layers)}


def test_a_state_goes_on_and_a_damaged_one_is_refused(loaded: Loaded) -> None:
    options = Options(budget=40, buffer=8, n_ubatch=16)
    with loaded.session(options) as session, loaded.session(options) as other:
        session.decode(PROMPT[:120])
        state = session.state()
        wanted = session.decode(PROMPT[120:150])
        other.decode(PROMPT[5:60])
        held = other.state()
        for at in range(0, len(state), max(1, len(state) // 40)):
            damaged = bytearray(state)
            damaged[at] ^= 0x40
            assert not other.restore(bytes(damaged))
        assert not other.restore(state[: len(state) // 2])
        assert other.state() == held
        assert other.restore(state)
        assert_close(other.decode(PROMPT[120:150]), wanted)


def test_history_does_not_matter(loaded: Loaded) -> None:
    options = Options(budget=40, buffer=8, n_ubatch=16)
    with loaded.session(options) as session:
        wanted = session.decode(PROMPT[:100])
    with loaded.session(options) as session:
        session.decode(PROMPT[100:180])
        session.remove(0, -1)
        assert_close(session.decode(PROMPT[:100]), wanted)


def test_what_cannot_be_cut_back_is_refused_and_the_rest_is_exact(loaded: Loaded) -> None:
    options = replace(Options(budget=200), buffer=64, n_ubatch=16)
    with loaded.session(options) as session:
        wanted = session.decode(PROMPT[:100])
    with loaded.session(options) as session:
        session.decode(PROMPT[:90])
        limit = session.rollback_limit()
        assert limit == (90 if loaded.shape.recurrent else 0) or 0 < limit <= 90
        if limit > 0:
            assert not session.try_remove(limit - 1, -1)
            assert "cannot be cut back" in retain_h.error_text()
            assert session.n_seen() == 90
        if limit < 90:
            session.remove(limit, -1)
        found = session.decode(PROMPT[limit:100])
    assert_close(found, wanted[limit:])


def test_sequences_are_apart_and_copies_are_whole(loaded: Loaded) -> None:
    options = Options(budget=40, buffer=8, n_ubatch=16)
    with loaded.session(options) as session:
        alone = session.decode(PROMPT[:80])
        after = session.decode(PROMPT[80:90])
    with loaded.session(options, n_seq_max=2) as session:
        session.decode(PROMPT[100:150], seq_id=1)
        assert_close(session.decode(PROMPT[:80], seq_id=0), alone)
        session.copy(0, 1)
        assert_close(session.decode(PROMPT[80:90], seq_id=1), after)
        assert_close(session.decode(PROMPT[80:90], seq_id=0), after)
