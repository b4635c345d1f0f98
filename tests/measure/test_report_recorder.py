"""Watching a cache: the recorder saw what a direct count finds, and the numbers of the pictures follow from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conftest import TinyFiles
from retain_local.bindings import retain_h
from retain_local.report import measures
from retain_local.report.recorder import HELD, Recorder, Trace
from support.llamas import kept, load, prompt
from support.reference import SCOPES, Cache, Options
from support.tiny_models import TINY_MODELS

N, N_CHUNK = 300, 32
EVICTS = [policy for policy in retain_h.policies() if policy != "none"]


def open_cache(tiny: TinyFiles, policy: str = "gate", **options: Any) -> Any:
    return load(
        tiny.model("qwen3"), policy=policy, gates=tiny.gates("qwen3") if policy == "gate" else None, n_batch=N_CHUNK,
        **{"budget": 40, "buffer": 8, "sinks": 2, **options},
    )  # fmt: skip


def record(llm: Any, tokens: list[int]) -> tuple[Trace, list[tuple[int, list[list[int]]]]]:
    """What the recorder saw, and after each chunk (tokens seen, positions of every stream) counted directly."""
    counted = []
    llm.reset()
    with Recorder(llm.retention, len(tokens)) as recorder:
        for start in range(0, len(tokens), N_CHUNK):
            llm.eval(tokens[start : start + N_CHUNK])
            counted.append((min(start + N_CHUNK, len(tokens)), kept(llm)))
        return recorder.trace(), counted


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("policy", EVICTS)
def test_it_saw_what_is_there(tiny: TinyFiles, policy: str, scope: str) -> None:
    llm = open_cache(tiny, policy, scope=scope)
    trace, counted = record(llm, prompt(llm, N))
    assert trace.evicted_at.shape == (len(counted[0][1]), N) and trace.budget == 40
    for seen, streams in counted:
        for row, positions in zip(trace.evicted_at, streams):
            # what went at the number of tokens seen went right after the chunk, or to make room for the next one
            left, went_here = np.flatnonzero(row[:seen] > seen).tolist(), np.flatnonzero(row[:seen] == seen).tolist()
            assert positions in (left, sorted(left + went_here))
    assert [np.flatnonzero(row == HELD).tolist() for row in trace.evicted_at] == counted[-1][1]
    llm.close()


class Watched(Cache):
    """The reference, noting how many tokens had been seen when a cell (layer, head, position) went."""

    def evict(self) -> None:
        self.__dict__.setdefault("went_at", {})
        before = set(zip(self.layer, self.head, self.pos))
        super().evict()
        self.went_at |= dict.fromkeys(before - set(zip(self.layer, self.head, self.pos)), self.n_seen)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("policy", ["gate", "window", "random"])
def test_it_agrees_with_the_reference_eviction_by_eviction(tiny: TinyFiles, policy: str, scope: str) -> None:
    shape = TINY_MODELS["qwen3"]
    llm = open_cache(tiny, policy, scope=scope)
    trace, _ = record(llm, prompt(llm, N))
    llm.close()
    options = Options(budget=40, buffer=8, n_ubatch=N_CHUNK, n_sink=2, policy=policy, scope=scope)
    cache = Watched(shape.n_layer, shape.n_head_kv, options)
    log_beta = np.zeros_like(trace.evicted_at, np.float32) if trace.log_beta is None else trace.log_beta
    cache.extend(log_beta.reshape(shape.n_layer, shape.n_head_kv, N).transpose(0, 2, 1))
    expected = np.full_like(trace.evicted_at, HELD)
    for (layer, head, position), seen in cache.went_at.items():
        expected[trace.cell_lists.index((layer, head)), position] = seen
    np.testing.assert_array_equal(trace.evicted_at, expected)
    assert cache.n_evictions > 3


def test_it_changes_nothing(tiny: TinyFiles) -> None:
    llm = open_cache(tiny)
    tokens = prompt(llm, N)
    _, counted = record(llm, tokens)
    llm.reset()
    for start in range(0, N, N_CHUNK):
        llm.eval(tokens[start : start + N_CHUNK])
    assert kept(llm) == counted[-1][1], "and it lets go of the hook"
    llm.close()


def test_log_beta_is_that_of_every_cell(tiny: TinyFiles) -> None:
    tokens: list[int] = []
    found = []
    for budget in (40, N):  # the second cache holds everything to the end
        llm = open_cache(tiny, budget=budget)
        tokens = tokens or prompt(llm, N)
        found.append(record(llm, tokens)[0])
        if budget == N:
            for row, (layer, head) in zip(found[1].log_beta, found[1].cell_lists):
                order = llm.retention.positions(layer, head)
                np.testing.assert_array_equal(row[order], llm.retention.log_beta(layer, head))
        llm.close()
    first = found[0].evicted_at[:, :N_CHUNK]
    assert (first != HELD).any(), "log beta of cells that went is known too"
    np.testing.assert_allclose(found[0].log_beta[:, :N_CHUNK], found[1].log_beta[:, :N_CHUNK], rtol=1e-5)


def test_without_gates_there_is_no_log_beta(tiny: TinyFiles) -> None:
    llm = open_cache(tiny, "window")
    assert record(llm, prompt(llm, N))[0].log_beta is None
    llm.close()


# the numbers of the pictures, from a trace that can be counted by hand


@pytest.fixture
def trace() -> Trace:
    """Two layers of two and one heads over eight tokens; evicted when 4, 6 or 8 tokens had been seen."""
    evicted_at = np.array(
        [
            [HELD, 4, 4, 6, 6, HELD, HELD, HELD],
            [HELD, HELD, 4, 6, HELD, 8, HELD, HELD],
            [4, 4, 4, HELD, HELD, HELD, HELD, HELD],
        ],
        np.int32,
    )
    log_beta = np.log(np.array([[0.5] * 8, [0.25] * 8, [1.0] * 8], np.float32))
    return Trace(((0, 0), (0, 1), (3, 0)), 5, evicted_at, log_beta)


def test_counts(trace: Trace) -> None:
    assert measures.held_by(trace).tolist() == [2, 1, 0, 1, 2, 2, 3, 3]
    assert measures.cells_of(trace).tolist() == [4, 5, 5]
    grid = measures.by_layer_and_head(trace, measures.cells_of(trace))
    np.testing.assert_array_equal(grid, [[4, 5], [5, np.nan]])


def test_what_was_held_over_time(trace: Trace) -> None:
    share = measures.held_over_time(trace, n_times=4, n_buckets=4)
    held = np.array(
        [  # of the cells that had been read, at 2, 4, 6 and 8 tokens
            [6 / 6, 3 / 6, 3 / 6, 3 / 6],
            [np.nan, 3 / 6, 1 / 6, 1 / 6],
            [np.nan, np.nan, 5 / 6, 4 / 6],
            [np.nan, np.nan, np.nan, 6 / 6],
        ]
    )
    np.testing.assert_allclose(share, held)


def test_how_long_cells_stay(trace: Trace) -> None:
    at = np.array([1, 4])
    lives = np.minimum(trace.evicted_at.astype(float), np.inf) - (1 + np.arange(8))
    expected = [[(lives[rows, : 8 - age] > age).mean() for age in at] for rows in ([0, 1], [2])]
    np.testing.assert_allclose(measures.kept_at_age(trace, at), expected)
    np.testing.assert_allclose(
        measures.beta_at_age(trace, at), [[(0.5 + 0.25) / 2, (0.5**4 + 0.25**4) / 2], [1, 1]], rtol=1e-6
    )
    assert measures.ages(trace, 10).tolist() == [1, 2, 3, 4]
