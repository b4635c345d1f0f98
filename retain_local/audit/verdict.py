"""The user's bound, and the smallest budget within it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..divergence.summary import Summary
from ..errors import UsageError
from ..options.archive import share_text
from ..terminal.byte_format import format_bytes
from .result import Audit, BudgetAudit

# Between what q4_K_M (0.031) and q4_0 (0.072) weights cost Llama 3 8B, by llama.cpp's own table: a loss that most
# people who run quantised models have accepted already.
DEFAULT_MAX_KL = 0.05


@dataclass(frozen=True)
class Bound:
    """What a budget may cost; None is no bound.

    max_kl : mean KL(full || cache) in nats.
    min_agreement : share of the tokens where both hold the same token likeliest.
    """

    max_kl: float | None
    min_agreement: float | None

    @classmethod
    def make(cls, max_kl: float | None, min_agreement: float | None) -> Bound:
        """The bound as it is given; `DEFAULT_MAX_KL` where neither part is.

        Raises
        ------
        UsageError : a part is out of range.
        """
        if max_kl is not None and not 0 <= max_kl < math.inf:
            raise UsageError(f"max-kl is {max_kl}; it must be a number of nats from 0")
        if min_agreement is not None and not 0 <= min_agreement <= 1:
            raise UsageError(f"min-agreement is {min_agreement}; it must be a share from 0 to 1")
        if max_kl is None and min_agreement is None:
            max_kl = DEFAULT_MAX_KL
        return cls(max_kl, min_agreement)

    def holds(self, summary: Summary) -> bool:
        """Whether a summary is within the bound."""
        kl_holds = self.max_kl is None or summary.kl_mean <= self.max_kl
        return kl_holds and (self.min_agreement is None or summary.agreement >= self.min_agreement)

    def allows(self, budget: BudgetAudit) -> bool:
        """Whether a budget evicted something and is within the bound in every file."""
        return budget.evicts and all(map(self.holds, budget.files.values()))

    def __str__(self) -> str:
        parts = []
        if self.max_kl is not None:
            parts.append(f"mean KL at most {self.max_kl:g}")
        if self.min_agreement is not None:
            parts.append(f"agreement at least {self.min_agreement:.6g}")
        return " and ".join(parts)


def recommend(audit: Audit, bound: Bound) -> BudgetAudit | None:
    """The smallest budget that the bound allows; None when it allows none."""
    return min((one for one in audit.budgets if bound.allows(one)), key=_cost, default=None)


def _cost(one: BudgetAudit) -> tuple[int, float]:
    """What a budget costs: its cells, and of two with as many the one that recalls less."""
    return one.cells, one.recall


def conclusion(audit: Audit, bound: Bound, best: BudgetAudit | None) -> tuple[str, str]:
    """The verdict in a few words, and the rest of its sentence.

    Parameters
    ----------
    best : from `recommend`.
    """
    if best is not None:
        share = f", {best.budget} of the longest text" if best.budget.share is not None else ""
        found = f"mean KL {best.summary.kl_mean:.3g}, agreement {best.summary.agreement:.1%}"
        saved = f"{format_bytes(best.bytes_full - best.bytes_peak)} of {format_bytes(best.bytes_full)}"
        archived = f" for {format_bytes(best.bytes_archived)} of archive" if best.recall else ""
        recalled = f", {share_text(best.recall)} of them for recalled cells" if best.recall else ""
        return "recommended:", (
            f" {best.cells:,} cells{share}{recalled}: {found}; saves {saved} of KV{archived} ({bound})"
        )
    if not audit.evicts:
        return "nothing was evicted", (
            " at any of these budgets, so nothing is recommended: an eviction runs at budget"
            f" + buffer ({audit.settings['buffer']}) tokens; use longer texts, or smaller budgets"
        )
    verdict = "no budget is within the bound"
    if (better := least_that_predicts_better(audit)) is not None:
        return verdict, (
            f" ({bound}), but {better.name} predicts these texts better than the full cache does (PPL ratio"
            f" {better.summary.perplexity_ratio:.3f}): evicting changes what the model says here and does not make it"
            f" worse; to use it: --budget {better.cells}{recall_flags(audit, better)}"
        )
    return (
        verdict,
        f" ({bound}): do not evict on texts like these, or try larger budgets, another policy, or other gates",
    )


def least_that_predicts_better(audit: Audit) -> BudgetAudit | None:
    """The smallest budget that evicts and predicts the texts better than the full cache; None when none does."""
    better = (one for one in audit.budgets if one.evicts and one.summary.perplexity_ratio < 1)
    return min(better, key=_cost, default=None)


def recall_flags(audit: Audit, one: BudgetAudit) -> str:
    """The options that recall as one of the audit's caches did; "" where it did not."""
    if not one.recall:
        return ""
    of_type = f" --archive-type {audit.archive['archive_type']}" if audit.names_archive_type else ""
    return f" --archive {audit.archive['archive']} --recall {share_text(one.recall)}{of_type}"
