"""Several sequences in one pool: each keeps what it would keep alone, whatever is done to the others."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from conftest import TinyFiles
from retain_local.bindings.capture import Capture
from support.llama_session import Model
from support.reference import Options
from support.retained import RetainedSession, assert_same_cells, retain_fields
from support.sequence_model import Sequence, new_sequence
from support.tiny_models import N_VOCAB, TINY_MODELS

ARCH = "qwen2"
SHAPE = TINY_MODELS[ARCH]
N_SEQ = 3
OPTIONS = Options(budget=16, buffer=4, n_ubatch=8, n_sink=1, n_recent=2)
N_BATCH = 24


@pytest.fixture(scope="module")
def model(tiny: TinyFiles):
    model = Model(tiny.model(ARCH))
    yield model
    model.close()


def open_session(model: Model, tiny: TinyFiles, **changes) -> RetainedSession:
    retain = {**retain_fields(OPTIONS), "gates": tiny.gates(ARCH)}
    context = {"n_ctx": 512, "n_seq_max": N_SEQ, "n_batch": N_BATCH, "n_ubatch": OPTIONS.n_ubatch, "cell_type": "f32"}
    return RetainedSession(model, retain, **{**context, **changes})


def new_cache() -> Sequence:
    return new_sequence(SHAPE.n_layer, SHAPE.n_head_kv, OPTIONS)


SEQUENCE = st.integers(0, N_SEQ - 1)


class Sequences(RuleBasedStateMachine):
    """Any order of decoding, removing, copying, saving and restoring, against one reference cache per sequence."""

    model: Model
    tiny: TinyFiles

    @initialize()
    def start(self) -> None:
        self.capture = Capture({"retention_log_beta": SHAPE.n_head_kv})
        self.session = open_session(self.model, self.tiny, capture=self.capture)
        self.caches = [new_cache() for _ in range(N_SEQ)]
        self.saved: list[tuple[bytes, Sequence]] = []
        self.saved_all: list[tuple[bytes, list[Sequence]]] = []

    def teardown(self) -> None:
        self.session.close()

    @rule(sequences=st.lists(SEQUENCE, min_size=1, max_size=N_BATCH), seed=st.integers(0, 1000))
    def decode(self, sequences: list[int], seed: int) -> None:
        """One batch whose tokens belong to the given sequences, in this order."""
        tokens = np.random.default_rng(seed).integers(3, N_VOCAB, len(sequences))
        positions = [self.caches[s].n_seen + sequences[:i].count(s) for i, s in enumerate(sequences)]
        self.session.decode_rows(list(zip(tokens.tolist(), positions, sequences)))
        log_beta = self.capture.take("retention_log_beta", SHAPE.n_layer)
        for start in range(0, len(sequences), OPTIONS.n_ubatch):
            rows = np.arange(start, min(start + OPTIONS.n_ubatch, len(sequences)))
            for s in {sequences[row] for row in rows}:
                own = [row for row in rows if sequences[row] == s]
                self.caches[s].add(np.array(positions)[own], log_beta[:, own])

    @rule(s=SEQUENCE, p0=st.integers(0, 60), n=st.integers(1, 30))
    def remove(self, s: int, p0: int, n: int) -> None:
        assert self.session.try_remove(p0, p0 + n, s) == self.caches[s].cut(p0, p0 + n)

    @rule(s=SEQUENCE, back=st.integers(1, 40))
    def roll_back(self, s: int, back: int) -> None:
        p0 = max(0, self.caches[s].n_seen - back)
        assert self.session.try_remove(p0, -1, s) == self.caches[s].cut(p0, -1)

    @rule(source=SEQUENCE, to=SEQUENCE)
    def copy(self, source: int, to: int) -> None:
        self.session.copy(source, to)
        if source != to:
            self.caches[to] = self.caches[source].copied_into(self.caches[to], -1, -1)

    @rule(s=SEQUENCE)
    def keep(self, s: int) -> None:
        self.session.keep(s)
        self.caches = [cache if i == s else new_cache() for i, cache in enumerate(self.caches)]

    @rule(s=SEQUENCE)
    def save(self, s: int) -> None:
        self.saved.append((self.session.state(s), copy.deepcopy(self.caches[s])))

    @rule(s=SEQUENCE, data=st.data())
    def restore(self, s: int, data: st.DataObject) -> None:
        """A saved sequence takes the place of any."""
        if self.saved:
            state, cache = data.draw(st.sampled_from(self.saved))
            assert self.session.restore(state, s)
            self.caches[s] = copy.deepcopy(cache)

    @rule()
    def save_all(self) -> None:
        self.saved_all.append((self.session.state(), copy.deepcopy(self.caches)))

    @rule(data=st.data())
    def restore_all(self, data: st.DataObject) -> None:
        if self.saved_all:
            state, caches = data.draw(st.sampled_from(self.saved_all))
            assert self.session.restore(state)
            self.caches = copy.deepcopy(caches)

    @invariant()
    def cells_are_those_of_the_references(self) -> None:
        if not hasattr(self, "session"):
            return
        for s, cache in enumerate(self.caches):
            assert_same_cells(self.session, cache, s)
            assert self.session.n_seen(s) == cache.n_seen
            assert self.session.rollback_limit(s) == cache.rollback_limit
        stats = self.session.stats()
        assert stats.n_cells == sum(cache.n_cells for cache in self.caches)
        assert stats.n_cells_peak <= stats.n_cells_max == N_SEQ * new_cache().n_max
        lengths = [
            len(cache.cell_list(il, h)[0])
            for cache in self.caches
            for il in range(SHAPE.n_layer)
            for h in range(SHAPE.n_head_kv)
        ]
        assert stats.n_pages_used == sum(-(-n // stats.page_size) for n in lengths)


def test_cells_of_every_sequence_equal_the_reference(model: Model, tiny: TinyFiles) -> None:
    machine = type("BoundSequences", (Sequences,), {"model": model, "tiny": tiny})
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
    machine.TestCase().runTest()


@dataclass
class Step:
    """What happens to one sequence: tokens come in, a range goes, or it is saved or restored."""

    s: int
    action: str
    argument: tuple[int, ...] = ()


def script() -> list[Step]:
    """Three sequences in turn; each loses ranges and goes back to a saved state while the pool is full of holes."""
    steps = []
    for turn in range(24):
        for s in range(N_SEQ):
            steps.append(Step(s, "decode", (3 + (turn + s) % 4,)))
        s = turn % N_SEQ
        if turn in (5, 6, 7):
            steps.append(Step(s, "save"))
        if turn in (10, 11, 12):
            steps.append(Step(s, "remove", (5 + turn, 14 + turn)))
        if turn in (15, 16, 17):
            steps.append(Step(s, "restore"))
        if turn >= 17:
            steps.append(Step(s, "roll back", (2,)))
    return steps


def run(session: RetainedSession, steps: list[Step], only: int | None = None) -> list[np.ndarray]:
    """Logits of the tokens of all sequences, [n, n_vocab] each; of one of them with `only`, run as sequence 0."""
    rngs = [np.random.default_rng(s) for s in range(N_SEQ)]
    logits: list[list[np.ndarray]] = [[] for _ in range(N_SEQ)]
    saved: dict[int, bytes] = {}
    taken_back: list[int] = []
    for step in steps:
        if only not in (None, step.s):
            continue
        seq_id = step.s if only is None else 0
        if step.action == "decode":
            logits[step.s].append(session.decode(rngs[step.s].integers(3, N_VOCAB, step.argument[0]).tolist(), seq_id))
        elif step.action == "remove":
            session.remove(*step.argument, seq_id)
        elif step.action == "roll back":
            back = min(step.argument[0], session.n_seen(seq_id) - session.rollback_limit(seq_id))
            session.remove(session.n_seen(seq_id) - back, -1, seq_id)
            taken_back.append(back)
        elif step.action == "save":
            saved[step.s] = session.state(seq_id)
        else:
            assert session.restore(saved[step.s], seq_id)
    assert only is not None or max(taken_back) > 0
    return [np.concatenate(rows) for rows in logits if rows]


def test_interleaved_sequences_say_what_each_says_alone(model: Model, tiny: TinyFiles) -> None:
    with open_session(model, tiny) as session:
        together = run(session, script())
        assert session.stats().n_moved > 0
    for s in range(N_SEQ):
        with open_session(model, tiny, n_seq_max=1) as session:
            (alone,) = run(session, script(), only=s)
        # cells lie in another order, so sums are rounded differently
        np.testing.assert_allclose(together[s], alone, atol=1e-4 * alone.std())


def test_sequences_in_one_ubatch_say_what_each_says_alone(model: Model, tiny: TinyFiles) -> None:
    rng = np.random.default_rng(5)
    tokens = rng.integers(3, N_VOCAB, (N_SEQ, 60)).tolist()
    with open_session(model, tiny) as session:
        rows = [session.decode_rows([(tokens[s][p], p, s) for s in range(N_SEQ)]) for p in range(60)]
    together = np.stack(rows, axis=1)
    for s in range(N_SEQ):
        with open_session(model, tiny, n_seq_max=1) as session:
            alone = np.concatenate([session.decode([token]) for token in tokens[s]])
            assert session.stats().n_evicted > 0
        np.testing.assert_allclose(together[s], alone, atol=1e-4 * alone.std())
