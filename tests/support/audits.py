"""Audits for tests: of a tiny model, and made up ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.divergences import made_up


def letter(token: int) -> str:
    """A made up vocabulary."""
    return chr(ord("a") + token)


def make_text(file: str, n_tokens: int, line: int = 1) -> Any:
    """A text of made up words, a token each, with a line break after every tenth."""
    from retain_local.divergence.texts import AuditText

    pieces = [""] + [f"w{i}" + ("\n" if i % 10 == 0 else " ") for i in range(1, n_tokens)]
    return AuditText(file, list(range(n_tokens)), pieces, line)


def make_budget(budget: str, divergences: list[Any], files: list[str] | None = None) -> Any:
    """A budget's part of an audit, with texts that fit the divergences."""
    from retain_local.audit.result import BudgetAudit
    from retain_local.options.budget import Budget

    files = files or [f"{i}.txt" for i in range(len(divergences))]
    texts = tuple(make_text(file, len(one.kl) + 1) for file, one in zip(files, divergences))
    return BudgetAudit(Budget.parse(budget), texts, tuple(divergences))


def make_audit(kls: dict[int, float], covered: tuple[int, ...] = (), nll_more: dict[int, float] | None = None) -> Any:
    """An audit of one text of 100 tokens: the KL at every token for each budget in cells; some budgets cover it.

    nll_more : by how much each budget predicts the text worse than the full cache, in nats a token.
    """
    more = nll_more or {}
    from retain_local.audit.result import Audit

    budgets = tuple(
        make_budget(
            str(cells),
            [made_up([kl] * 100, n_whole=100 if cells in covered else 20, nll_more=more.get(cells, 0.0), cells=cells)],
        )
        for cells, kl in kls.items()
    )
    settings = {"buffer": 16, "sinks": 4}
    return Audit(Path("m.gguf"), None, "window", "global", settings, 512, 16, budgets[0].texts, budgets)
