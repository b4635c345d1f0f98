"""The policies that look at keys and queries: what they keep is what their formulas say, after every eviction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import TinyFiles
from support.llama_session import CELL_TYPES, Model
from support.reference import SCOPES, Options
from support.rig import N_BATCH, SMALL, Plan, Rig, open_rig, plans
from support.sequence_state import read_sequence
from support.tiny_models import N_VOCAB, TINY_MODELS
from support.watch import KEY_POLICIES, N_HELD, N_QUERIES, Watch

TOKENS = np.random.default_rng(4).integers(3, N_VOCAB, 600).tolist()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory):
    rig = open_rig(tmp_path_factory.mktemp("key-policies"))
    yield rig
    rig.model.close()


@pytest.mark.parametrize("cell_type", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("policy", KEY_POLICIES)
@settings(max_examples=15)
@given(plan=plans())
def test_kept_cells_are_those_of_the_formula(rig: Rig, policy: str, cell_type: str, plan: Plan) -> None:
    """Over budgets, buffers, ubatches, scopes, sinks, recent windows, minimums and pins."""
    with Watch(rig.model, SMALL, replace(plan.options, policy=policy), cell_type) as watch:
        for i, tokens in enumerate(plan.tokens()):
            if i in plan.pins:
                watch.pin(*plan.pins[i])
            watch.decode(tokens)


@pytest.mark.parametrize("cell_type", CELL_TYPES)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("policy", KEY_POLICIES)
def test_every_scope_and_cell_type(rig: Rig, policy: str, scope: str, cell_type: str) -> None:
    with Watch(
        rig.model, SMALL, Options(budget=48, buffer=5, n_ubatch=16, policy=policy, scope=scope), cell_type
    ) as watch:
        for start in range(0, 240, 30):
            watch.decode(TOKENS[start : start + 30])
        assert watch.n_evictions >= 8


# one to eight query heads per KV head, heads of 32 and 64, fused and normed and scaled queries, a scale of its own
@pytest.mark.parametrize("cell_type", ["f16", "q8_0"])
@pytest.mark.parametrize("arch", TINY_MODELS)
@pytest.mark.parametrize("policy", KEY_POLICIES)
def test_every_architecture(tiny: TinyFiles, policy: str, arch: str, cell_type: str) -> None:
    model = Model(tiny.model(arch))
    with Watch(model, TINY_MODELS[arch], Options(budget=40, buffer=8, n_ubatch=32, policy=policy), cell_type) as watch:
        for start in range(0, 192, 48):
            watch.decode(TOKENS[start : start + 48])
        assert watch.n_evictions >= 3
    model.close()


@pytest.mark.parametrize("cell_type", ["f32", "f16"])
def test_stored_keys_are_those_of_attention(rig: Rig, cell_type: str) -> None:
    """What the comparisons rest on: the state holds the keys that the graph computed, rounded to the cells' type."""
    with Watch(rig.model, SMALL, Options(budget=200, n_ubatch=16, policy="knorm"), cell_type) as watch:
        watch.decode(TOKENS[:N_BATCH])
        saved = read_sequence(watch.session.state(0), SMALL, cell_type)
        for (il, head), stream in saved.streams.items():
            computed = np.concatenate(watch.capture.keys[il])[stream.pos, head]
            np.testing.assert_array_equal(
                stream.keys, computed.astype({"f32": np.float32, "f16": np.float16}[cell_type])
            )


@pytest.mark.parametrize("policy", KEY_POLICIES)
def test_full_prefill_evicts_once(rig: Rig, policy: str) -> None:
    options = Options(budget=40, n_ubatch=16, policy=policy)
    with Watch(rig.model, SMALL, options, retain={"prefill": 1}, n_batch=200) as watch:
        (cache,) = watch.caches
        cache.n_max, cache.hold = 10**6, True
        watch.session.hold(True)
        watch.decode(TOKENS[:200])
        watch.session.hold(False)
        cache.set_hold(False)
        watch.compare()
        watch.decode(TOKENS[200:201])
        assert watch.n_evictions == 1


def test_a_policy_can_be_switched_to_at_any_moment(rig: Rig) -> None:
    """The keys of before count at once; queries count from the switch on, in graphs of one shape before and after it."""
    options = Options(budget=40, buffer=4, n_ubatch=16, n_sink=1)
    gates = {"gates": rig.gates["rg10 tied"]}
    order = ["gate", "snapkv", "knorm", "snapkv", "window", "keydiff", "random", "gate", "snapkv", "snapkv", "keydiff"]
    with Watch(rig.model, SMALL, options, retain=gates) as watch:
        for i, policy in enumerate(order):
            watch.set_policy(policy)
            watch.decode(TOKENS[48 * i : 48 * i + 48])
        # one is due after each ubatch of 16 but the first two, and the last one still waits for a token
        assert watch.n_evictions == 3 * len(order) - 3


def test_without_queries_snapkv_keeps_the_newest(rig: Rig) -> None:
    with Watch(rig.model, SMALL, Options(budget=40, n_ubatch=16, policy="window")) as watch:
        watch.decode(TOKENS[:40])
        watch.set_policy("snapkv")
        watch.set_budget(24)
        assert watch.session.cell_list(2, 1)[0].tolist() == list(range(16, 40))


def test_the_window_stays_and_the_attended_cells_with_it(rig: Rig) -> None:
    """The comparisons mean something: old cells stay, others than a window of the same budget would keep."""
    options = Options(budget=48, n_ubatch=16, policy="snapkv", scope="head")
    with Watch(rig.model, SMALL, options) as watch:
        for start in range(0, 300, 60):
            watch.decode(TOKENS[start : start + 60])
        streams = [
            watch.session.cell_list(il, head)[0] for il in range(SMALL.n_layer) for head in range(SMALL.n_head_kv)
        ]
        for pos in streams:
            assert pos[-N_QUERIES:].tolist() == list(range(300 - N_QUERIES, 300))
            assert pos[0] < 300 - options.budget
        assert any((pos < 200).any() for pos in streams)
        assert len({tuple(pos) for pos in streams}) == len(streams)


def test_queries_go_with_their_sequence(rig: Rig) -> None:
    """Where it is copied, cut back or restored: the evictions that follow at once look at what came along."""
    options = Options(budget=60, buffer=8, n_ubatch=16, policy="snapkv")
    with Watch(rig.model, SMALL, options, n_seq_max=3) as watch:
        watch.decode(TOKENS[:50])
        watch.decode(TOKENS[50:100])
        watch.copy(0, 1)
        watch.set_budget(40, 1)
        watch.save_and_restore(0, 2)
        watch.set_budget(40, 2)
        limit = watch.session.rollback_limit()
        assert 90 < limit < 100
        watch.remove(limit, 1000)
        assert watch.caches[0].n_seen == limit and len(watch.queries[0]) == N_HELD - 100 + limit
        watch.remove(60, 95)
        assert 0 < len(watch.queries[0]) < N_QUERIES
        watch.set_budget(20)
        watch.decode(TOKENS[100:150])
        watch.remove(0, 1000)
        assert not watch.queries[0]
        watch.decode(TOKENS[:20])
        watch.set_budget(10)
        assert watch.n_evictions >= 10


ROLES = st.integers(0, 2)
STEPS = st.one_of(
    st.tuples(st.just("decode"), st.lists(ROLES, min_size=1, max_size=N_BATCH)),
    st.tuples(st.just("copy"), ROLES, ROLES),
    st.tuples(st.just("remove"), ROLES, st.integers(0, 80), st.integers(1, 30)),
    st.tuples(st.just("roll back"), ROLES, st.integers(1, 40)),
    st.tuples(st.just("save and restore"), ROLES, ROLES),
    st.tuples(st.just("shrink"), ROLES),
)


@pytest.mark.parametrize("policy", KEY_POLICIES)
@settings(max_examples=25)
@given(steps=st.lists(STEPS, min_size=5, max_size=25))
def test_sequences_do_not_disturb_each_other(rig: Rig, policy: str, steps: list[tuple]) -> None:
    """Batches of several sequences, and queries that go with them where they are copied, cut back and saved."""
    options = Options(budget=40, buffer=4, n_ubatch=16, n_sink=1, policy=policy)
    with Watch(rig.model, SMALL, options, cell_type="f32", n_seq_max=3) as watch:
        n = 0
        for kind, *arguments in steps:
            if kind == "decode":
                (sequences,) = arguments
                first = [cache.n_seen for cache in watch.caches]
                rows = [(TOKENS[n + i], first[s] + sequences[:i].count(s), s) for i, s in enumerate(sequences)]
                watch.decode_rows(rows)
                n = (n + len(rows)) % 500
            elif kind == "remove":
                s, p0, length = arguments
                watch.remove(p0, p0 + length, s)
            elif kind == "roll back":
                s, back = arguments
                watch.remove(max(0, watch.caches[s].n_seen - back), 10**6, s)
            elif kind == "shrink":
                (s,) = arguments
                watch.set_budget(max(8, watch.caches[s].options.budget - 3), s)
            elif arguments[0] != arguments[1]:
                (watch.copy if kind == "copy" else watch.save_and_restore)(*arguments)
