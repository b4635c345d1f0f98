"""What eviction must not change: results by threads or pages, and rows by moving them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conftest import TinyFiles
from retain_local.bindings import retain_h
from support.llama_session import Model
from support.retained import RetainedSession
from support.tiny_models import N_VOCAB

TOKENS = np.random.default_rng(2).integers(3, N_VOCAB, 160).tolist()
CONTEXT = {"n_ctx": 512, "n_batch": 64, "n_ubatch": 16}


# heads of 32, and heads of 64, whose quantised rows are rotated
@pytest.fixture(scope="module", params=["llama", "qwen3"])
def arch(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(arch: str, tiny: TinyFiles):
    model = Model(tiny.model(arch))
    yield model
    model.close()


@pytest.fixture(scope="module")
def gates(arch: str, tiny: TinyFiles) -> Path:
    return tiny.gates(arch)


def evicted_run(model: Model, retain: dict, **context) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits of a prompt and single tokens, and the positions kept in the end."""
    with RetainedSession(model, {"budget": 32, "buffer": 100, **retain}, **{**CONTEXT, **context}) as session:
        logits = [session.decode(TOKENS[:120]), *(session.decode([token]) for token in TOKENS[120:])]
        stats = session.stats()
        assert stats.n_evicted > 0 and stats.n_moved > 0
        kept = [session.cell_list(il, head)[0] for il in range(model.n_layer) for head in range(model.n_head_kv)]
    return np.concatenate(logits), kept


@pytest.mark.parametrize("cell_type", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("policy", [name for name in retain_h.policies() if name != "none"])
def test_threads_do_not_change_a_bit(model: Model, gates: Path, policy: str, cell_type: str) -> None:
    retain = {"gates": gates, "policy": policy}
    one, kept_by_one = evicted_run(model, retain, cell_type=cell_type, n_threads=1)
    two, kept_by_two = evicted_run(model, retain, cell_type=cell_type, n_threads=2)
    np.testing.assert_array_equal(one, two)
    assert all(map(np.array_equal, kept_by_one, kept_by_two))


def test_pages_change_rounding_alone(model: Model, gates: Path) -> None:
    runs = [evicted_run(model, {"gates": gates, "page_size": n}, cell_type="f32")[0] for n in (8, 32, 256)]
    for other in runs[1:]:
        np.testing.assert_allclose(other, runs[0], atol=1e-4 * runs[0].std())


# Largest difference from f32 cells, in standard deviations: what rounding the cells costs, where a row in a wrong place
# would cost more than 1. Measured: 0.004, 0.03, 0.11, 0.08 and 0.08.
CELL_ERROR = {"f16": 0.02, "bf16": 0.15, "q8_0": 0.5, "q8_0/f16": 0.5, "f16/q8_0": 0.5}


@pytest.mark.parametrize("cell_type", CELL_ERROR)
def test_rows_of_every_type_survive_moving(model: Model, cell_type: str) -> None:
    """The window policy keeps the same cells whatever their type, so only rounding may differ."""
    retain = {"policy": "window", "n_sink": 2}
    exact, _ = evicted_run(model, retain, cell_type="f32")
    rounded, _ = evicted_run(model, retain, cell_type=cell_type)
    difference = np.abs(rounded - exact).max() / exact.std()
    assert 0 < difference < CELL_ERROR[cell_type]
