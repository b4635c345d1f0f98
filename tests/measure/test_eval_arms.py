"""Budgets and arms of an evaluation, as they are named."""

from __future__ import annotations

import pytest

from retain_local.errors import UsageError
from retain_local.evaluation.arms import Arm, make_arms
from retain_local.options.budget import Budget


@pytest.mark.parametrize(
    "text, n_prompt, cells, shown",
    [
        ("512", 768, 512, "512"),
        ("1/8", 768, 96, "1/8"),
        ("1/8", 767, 95, "1/8"),
        ("2/16", 768, 96, "1/8"),
        ("3/8", 768, 288, "37.5%"),
        ("12.5%", 768, 96, "1/8"),
        ("10%", 768, 76, "1/10"),
        ("100%", 768, 768, "100%"),
        ("1/1000", 768, 1, "1/1000"),
    ],
)
def test_budgets(text: str, n_prompt: int, cells: int, shown: str) -> None:
    budget = Budget.parse(text)
    assert budget.of(n_prompt) == cells
    assert str(budget) == shown and Budget.parse(shown) == budget


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "1/0", "0/4", "2/1", "0%", "101%", "half", "512MiB", "1/-2"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(UsageError, match="budget"):
        Budget.parse(text)


def test_arms_are_the_full_cache_and_every_method_at_every_budget_once() -> None:
    arms = make_arms(["gate", "gate:head", "window", "gate"], ["1/8", "64", "2/16"])
    assert list(map(str, arms)) == [
        "full", "gate 1/8", "gate 64", "gate:head 1/8", "gate:head 64", "window 1/8", "window 64",
    ]  # fmt: skip


def test_the_default_scope_is_that_of_a_policy_named_without_one() -> None:
    assert make_arms(["gate", "gate:global"], ["64"], "head")[1:] == (
        Arm("gate", "head", Budget(64)),
        Arm("gate", "global", Budget(64)),
    )


@pytest.mark.parametrize(
    "methods, scope, message",
    [
        (["best"], "global", "policy 'best' is not one of"),
        (["auto"], "global", "policy 'auto' is not one of"),
        (["gate:row"], "global", "scope 'row' is not one of global, layer, head"),
        (["gate"], "row", "scope 'row' is not one of"),
    ],
)
def test_unknown_names(methods: list[str], scope: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_arms(methods, ["64"], scope)
