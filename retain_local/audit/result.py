"""What an audit found."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..divergence.divergence import Divergence
from ..divergence.summary import Summary, summarize
from ..divergence.texts import AuditText
from ..options.archive import share_text
from ..options.budget import Budget


@dataclass(frozen=True)
class BudgetAudit:
    """One budget on all texts.

    budget : as it was asked for.
    recall : the share of it that was for recalled cells.
    texts : those that were read.
    divergences : of each text.
    """

    budget: Budget
    texts: tuple[AuditText, ...]
    divergences: tuple[Divergence, ...]
    recall: float = 0.0

    @property
    def name(self) -> str:
        """The budget as it was asked for, and the share for recalled cells: "1/8 +25%"."""
        return f"{self.budget} +{share_text(self.recall)}" if self.recall else str(self.budget)

    @property
    def cells(self) -> int:
        """Cells per (layer, KV head): of a share, those of the longest text."""
        return self.budget.cells or max(one.cache.budget for one in self.divergences)

    @property
    def evicts(self) -> bool:
        """Whether anything was predicted from less than the whole text; a budget that covers the texts shows nothing."""
        return any(one.evicts for one in self.divergences)

    @property
    def bytes_peak(self) -> int:
        """Bytes of the most cells held at once, in any of the texts."""
        return max(one.cache.bytes_peak for one in self.divergences)

    @property
    def bytes_full(self) -> int:
        """The same of the full cache."""
        return max(one.full.bytes_peak for one in self.divergences)

    @property
    def bytes_archived(self) -> int:
        """Most bytes that the archive took in any of the texts."""
        return max(one.cache.bytes_archived for one in self.divergences)

    @property
    def seconds(self) -> float:
        """That reading the texts took."""
        return sum(one.cache.seconds for one in self.divergences)

    @property
    def n_of_pictures(self) -> tuple[int, int]:
        """Cells of pictures that were left at the end of the texts, and those that came."""
        left, came = zip(*(one.n_of_pictures for one in self.divergences))
        return sum(left), sum(came)

    @cached_property
    def summary(self) -> Summary:
        """Over all texts."""
        return summarize(self.divergences)

    @cached_property
    def files(self) -> dict[str, Summary]:
        """Over the windows of each file."""
        parts: dict[str, list[Divergence]] = {}
        for text, one in zip(self.texts, self.divergences):
            parts.setdefault(text.file, []).append(one)
        return {file: summarize(ones) for file, ones in parts.items()}


@dataclass(frozen=True)
class Audit:
    """All budgets, in the order of their cells, the most first; of each first what recalls nothing.

    model, gates : files; gates is None without.
    policy, scope : as resolved.
    settings : the other options that decide what is evicted, by name.
    archive : those of the archive, by name; empty without one.
    names_archive_type : its type was asked for, so that a chat has to ask for it too.
    n_ctx, n_chunk : tokens of the context, and of the chunks that the texts were read in.
    """

    model: Path
    gates: Path | None
    policy: str
    scope: str
    settings: dict[str, int | str]
    n_ctx: int
    n_chunk: int
    texts: tuple[AuditText, ...]
    budgets: tuple[BudgetAudit, ...]
    archive: dict[str, int | str] = field(default_factory=dict)
    names_archive_type: bool = False

    @property
    def evicts(self) -> bool:
        """Whether anything was evicted at any budget."""
        return any(one.evicts for one in self.budgets)
