"""The arms of an evaluation: a policy, a scope, a budget and what is recalled, and the full cache that all are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..options.archive import share_text
from ..options.budget import Budget
from ..options.retention_options import SCOPES, policies
from ..options.table import check_choice

FULL = "full"


def compared() -> tuple[str, ...]:
    """The policies that can be compared with the full cache."""
    return tuple(name for name in policies() if name not in ("auto", "none"))


@dataclass(frozen=True)
class Arm:
    """One way to keep the cache. `FULL` keeps everything and has no budget.

    recall : the share of the budget for cells that are recalled from the archive.
    """

    policy: str
    scope: str = "global"
    budget: Budget | None = None
    recall: float = 0.0

    @property
    def method(self) -> str:
        """The policy, with its scope where that is not global, and what is recalled."""
        kept = self.policy if self.scope == "global" else f"{self.policy}:{self.scope}"
        return f"{kept} +{share_text(self.recall)} recall" if self.recall else kept

    def __str__(self) -> str:
        return self.method if self.budget is None else f"{self.method} {self.budget}"


def make_arms(
    methods: list[str], budgets: list[str], scope: str = "global", recalls: Sequence[float] = (0.0,)
) -> tuple[Arm, ...]:
    """The full cache, then every method with every share of recalled cells at every budget, each once.

    Parameters
    ----------
    methods : ``policy`` or ``policy:scope``, as ``gate``, ``gate:head``, ``window``.
    budgets : as `Budget.parse` reads them.
    scope : of a policy that is named without one.
    recalls : see `Arm`.

    Raises
    ------
    UsageError : an unknown policy, scope or budget.
    """
    parsed = [Budget.parse(text) for text in budgets]
    arms = [Arm(FULL)]
    for method in methods:
        policy, _, own_scope = method.partition(":")
        check_choice("policy", policy, compared())
        check_choice("scope", own_scope or scope, SCOPES)
        arms += [Arm(policy, own_scope or scope, budget, recall) for recall in recalls for budget in parsed]
    return tuple(dict.fromkeys(arms))
