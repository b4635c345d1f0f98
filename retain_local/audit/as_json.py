"""An audit as JSON, for programs and for reports: every number, and the text token by token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from ..divergence.divergence import Divergence
from ..divergence.summary import Summary
from .result import Audit, BudgetAudit
from .verdict import Bound
from .worst import worst_places

FORMAT = "retain-local audit 1"
WORST = 20


def audit_as_dict(
    audit: Audit, bound: Bound, recommended: BudgetAudit | None, piece: Callable[[int], str]
) -> dict[str, Any]:
    """A dict that `json.dumps` takes.

    `texts[i].tokens` has the text of every token of text i; `budgets[b].texts[i].kl[j]` is the KL of its token j + 1.
    """
    return {
        "format": FORMAT,
        "model": audit.model.name,
        "gates": audit.gates.name if audit.gates is not None else None,
        "policy": audit.policy,
        "scope": audit.scope,
        "settings": audit.settings,
        "archive": audit.archive,
        "n_ctx": audit.n_ctx,
        "n_chunk": audit.n_chunk,
        "bound": asdict(bound),
        "recommended": None if recommended is None else _recommended(recommended),
        "texts": [
            {
                "file": text.file,
                "line": text.line,
                "n_tokens": len(text.tokens),
                "n_tokens_of_pictures": sum(picture.n_tokens for picture in text.pictures),
                "tokens": text.pieces,
            }
            for text in audit.texts
        ],
        "budgets": [_budget(one, bound, piece) for one in audit.budgets],
    }


def _recommended(one: BudgetAudit) -> dict[str, Any]:
    return {"budget": str(one.budget), "cells": one.cells, "recall": one.recall}


def _budget(one: BudgetAudit, bound: Bound, piece: Callable[[int], str]) -> dict[str, Any]:
    return {
        "budget": str(one.budget),
        "cells": one.cells,
        "recall": one.recall,
        "evicts": one.evicts,
        "within_bound": bound.allows(one),
        "bytes_peak": one.bytes_peak,
        "bytes_full": one.bytes_full,
        "bytes_archived": one.bytes_archived,
        "seconds": one.seconds,
        "picture_cells": dict(zip(("left", "came"), one.n_of_pictures)),
        "summary": _summary(one.summary),
        "files": {file: _summary(summary) for file, summary in one.files.items()},
        "worst": [asdict(place) for place in worst_places(one, WORST, piece)],
        "texts": [_divergence(part) for part in one.divergences],
    }


def _summary(summary: Summary) -> dict[str, float]:
    return asdict(summary) | {"perplexity_ratio": summary.perplexity_ratio}


def _divergence(one: Divergence) -> dict[str, Any]:
    """Fields of a Divergence; `disagrees` lists the entries where the likeliest tokens differ."""
    return {
        "cells": one.cache.budget,
        "n_whole": one.n_whole,
        "bytes_peak": one.cache.bytes_peak,
        "bytes_full": one.full.bytes_peak,
        "kl": [float(f"{value:.4g}") for value in one.kl],
        "disagrees": np.flatnonzero(~one.agrees).tolist(),
    }
