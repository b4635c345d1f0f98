"""Resolving the retention options of a model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import TinyFiles
from retain_local.errors import RetainError, UsageError
from retain_local.kv_types import kv_type
from retain_local.models.model_file import read_model_file
from retain_local.options.retention_options import RetentionOptions


@pytest.fixture
def alone(tiny: TinyFiles, tmp_path: Path) -> Path:
    """A model without gates beside it."""
    return Path(shutil.copy(tiny.model("llama"), tmp_path / "m.gguf"))


@pytest.fixture
def with_gates(alone: Path, tiny: TinyFiles) -> Path:
    """A model with gates beside it."""
    shutil.copy(tiny.gates("llama"), alone.with_name("m.gates.gguf"))
    return alone


def resolve(path: Path, **options: Any) -> RetentionOptions:
    f16 = kv_type("f16")
    return RetentionOptions(**{"n_ubatch": 64} | options).resolve(
        read_model_file(path), n_ctx=1024, type_k=f16, type_v=f16
    )


def test_auto_without_gates_is_window(alone: Path) -> None:
    options = resolve(alone)
    assert (options.policy, options.gates, options.budget) == ("window", None, 1024)


def test_auto_with_gates_is_gate(with_gates: Path) -> None:
    options = resolve(with_gates)
    assert (options.policy, options.gates) == ("gate", with_gates.with_name("m.gates.gguf"))


@pytest.mark.parametrize("policy", ["window", "none"])
def test_a_policy_without_scores_gets_no_gates_it_did_not_ask_for(with_gates: Path, policy: str) -> None:
    assert resolve(with_gates, policy=policy).gates is None
    named = with_gates.with_name("m.gates.gguf")
    assert resolve(with_gates, policy=policy, gates=named).gates == named


def test_gates_can_be_switched_off(with_gates: Path) -> None:
    assert resolve(with_gates, gates=None).policy == "window"


@pytest.mark.parametrize("gates", ["none", None])
def test_none_is_none_in_python_too(with_gates: Path, gates: str | None) -> None:
    assert resolve(with_gates, gates=gates).gates is None
    with pytest.raises(UsageError, match="needs gates, and 'none' leaves those at .*m.gates.gguf out; use 'auto'"):
        resolve(with_gates, gates=gates, policy="gate")


def test_none_where_there_are_no_gates(alone: Path) -> None:
    with pytest.raises(RetainError, match="needs gates, and none are given"):
        resolve(alone, gates="none", policy="gate")


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"budget": 1024}, (1024, 512, 512)),  # it covers the context
        ({"budget": 1000}, (1000, 128, 128)),
        ({"budget": 512}, (512, 128, 128)),
        ({"budget": 255}, (255, 32, 32)),
        ({"budget": 8}, (8, 32, 32)),
        ({"budget": 512, "buffer": 64}, (512, 64, 64)),
        ({"budget": 512, "buffer": 100}, (512, 100, 64)),
        ({"budget": 512, "buffer": 500}, (512, 500, 128)),
        ({"budget": 512, "buffer": 4}, (512, 4, 32)),
        ({"budget": 512, "n_ubatch": 512}, (512, 512, 512)),
        ({"budget": 8, "n_ubatch": 1}, (8, 1, 1)),
        ({"budget": "1/8"}, (128, 32, 32)),
    ],
)
def test_the_ubatch_follows_the_budget(alone: Path, options: dict[str, Any], expected: tuple[int, int, int]) -> None:
    found = resolve(alone, **{"n_ubatch": None} | options)
    assert (found.budget, found.buffer, found.n_ubatch) == expected


def test_a_size_is_that_of_cells_and_room(alone: Path) -> None:
    per_token = read_model_file(alone).bytes_per_token(kv_type("f16"), kv_type("f16"))
    found = resolve(alone, budget=f"{per_token * 340}B", n_ubatch=None)
    assert (found.budget, found.n_ubatch) == (276, 64)  # with 128 too little would be left for four of them


def test_gate_needs_gates(alone: Path) -> None:
    with pytest.raises(RetainError, match="needs gates, and .*m.gates.gguf does not exist"):
        resolve(alone, policy="gate")


def test_without_eviction_the_budget_is_the_context(alone: Path) -> None:
    assert resolve(alone, policy="none").budget == 1024
    assert resolve(alone, policy="none", budget=64).budget == 64


def test_named_gates_must_be_there(alone: Path) -> None:
    with pytest.raises(RetainError, match="no such gate sidecar"):
        resolve(alone, gates=alone.with_name("absent.gguf"))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"policy": "best"}, "policy 'best' is not one of auto, gate, .*none"),
        ({"prefill": "half"}, "prefill 'half' is not one of bounded, full"),
        ({"buffer": -1}, "buffer is -1; it must be a whole number from 0"),
        ({"lookahead": 0}, "lookahead is 0; it must be a whole number from 1"),
        ({"min_per_head": 1.5}, "min-per-head is 1.5"),
        ({"sinks": 10, "recent": 7, "budget": 16}, "together are more than the budget of 16 cells"),
        ({"min_per_head": 17, "budget": 16}, r"min-per-head \(17\) is more than the budget"),
        ({"budget": "lots"}, "not a number of cells"),
    ],
)
def test_what_is_refused(alone: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(alone, **options)


def test_a_size_covers_the_room_over_the_budget(alone: Path) -> None:
    per_token = read_model_file(alone).bytes_per_token(kv_type("f16"), kv_type("f16"))
    assert resolve(alone, budget=f"{per_token * 300}B", buffer=32).budget == 300 - 64
    assert resolve(alone, budget=f"{per_token * 300}B", buffer=100).budget == 300 - 100
