"""The arms of an evaluation: a policy, a scope and a budget each, and the full cache that all are compared with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from ..errors import UsageError
from ..options import POLICIES, SCOPES

FULL = "full"
COMPARED = tuple(name for name in POLICIES if name not in ("auto", "none"))
_SHARE = re.compile(r"(\d+)/(\d+)|(\d+(?:\.\d+)?)%")


@dataclass(frozen=True)
class Budget:
    """Cells per (layer, KV head): a number, or a share of the prompt."""

    cells: int = 0
    share: Fraction | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``512``, ``1/8`` or ``12.5%``.

        Raises
        ------
        UsageError : none of these, or not more than 0 and, as a share, at most 1.
        """
        text = text.strip()
        if match := _SHARE.fullmatch(text):
            if match[2] is not None and int(match[2]) == 0:
                raise UsageError(f"budget {text!r} divides by zero")
            share = Fraction(int(match[1]), int(match[2])) if match[1] else Fraction(match[3]) / 100
            if not 0 < share <= 1:
                raise UsageError(f"budget {text!r} is not a share of the prompt: it must be more than 0 and at most 1")
            return cls(share=share)
        if text.isdecimal() and int(text) > 0:
            return cls(cells=int(text))
        raise UsageError(f"budget {text!r} is not a number of cells (512) or a share of the prompt (1/8, 12.5%)")

    def of(self, n_prompt: int) -> int:
        """Cells for a prompt of so many tokens, at least 1."""
        return max(1, int(n_prompt * self.share)) if self.share is not None else self.cells

    def __str__(self) -> str:
        if self.share is None:
            return str(self.cells)
        if self.share.numerator == 1 and self.share != 1:
            return str(self.share)
        return f"{float(100 * self.share):g}%"


@dataclass(frozen=True)
class Arm:
    """One way to keep the cache. `FULL` keeps everything and has no budget."""

    policy: str
    scope: str = "global"
    budget: Budget | None = None

    @property
    def method(self) -> str:
        """The policy, with its scope where that is not global."""
        return self.policy if self.scope == "global" else f"{self.policy}:{self.scope}"

    def __str__(self) -> str:
        return self.method if self.budget is None else f"{self.method} {self.budget}"


def make_arms(methods: list[str], budgets: list[str], scope: str = "global") -> tuple[Arm, ...]:
    """The full cache, then every method at every budget, each once.

    Parameters
    ----------
    methods : ``policy`` or ``policy:scope``, as ``gate``, ``gate:head``, ``window``.
    budgets : as `Budget.parse` reads them.
    scope : of a policy that is named without one.

    Raises
    ------
    UsageError : an unknown policy, scope or budget.
    """
    parsed = [Budget.parse(text) for text in budgets]
    arms = [Arm(FULL)]
    for method in methods:
        policy, _, own_scope = method.partition(":")
        if policy not in COMPARED:
            raise UsageError(f"policy {policy!r} is not one of {', '.join(COMPARED)}")
        arms += [Arm(policy, _scope(own_scope or scope), budget) for budget in parsed]
    return tuple(dict.fromkeys(arms))


def _scope(name: str) -> str:
    if name not in SCOPES:
        raise UsageError(f"scope {name!r} is not one of {', '.join(SCOPES)}")
    return name
