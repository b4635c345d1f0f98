"""What `audit` can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..options.table import check, option

_WHAT, _BOUND, _OUTPUT = "What is compared", "Bound", "Output"


@dataclass(frozen=True)
class AuditOptions:
    """What is measured, and where the results go; each field's `Option` says what it is."""

    budgets: str = option(
        "1/2,1/4,1/8,1/16",
        "Cells for each (layer, KV head) on average, comma-separated: numbers, or shares of each text (1/8, 10%).",
        _WHAT,
        str,
    )
    recall: str | None = option(
        None,
        "What shares of the budget to use for cells recalled from the archive, comma-separated, as in 0,25%.",
        _WHAT,
        str,
        unset="0,25% with an archive, else 0",
        rare=True,
    )
    max_kl: float | None = option(
        None,
        "Recommend the smallest budget whose mean KL divergence is at most this, in nats.",
        _BOUND,
        float,
        unset="0.05, unless --min-agreement is given",
    )
    min_agreement: float | None = option(
        None,
        "Recommend the smallest budget where at least this share (0 to 1) of the likeliest tokens stays the same.",
        _BOUND,
        float,
        rare=True,
    )
    window: int | None = option(
        None,
        "Cut each text into windows of at most this many tokens, each read from an empty cache.",
        _WHAT,
        int,
        unset="not cut",
    )
    image: list[Path] | None = option(
        None,
        "A picture that comes before each text, or each window of one; may be given several times.",
        _WHAT,
        list[Path],
        rare=True,
    )
    worst: int = option(3, "How many of the worst places to show for each budget.", _OUTPUT, int, most=100, rare=True)
    json: Path | None = option(None, "Write all numbers and the text, token by token, to this file.", _OUTPUT, Path)
    store: bool = option(
        True,
        "Do not keep the recommendation for --budget auto.",
        _OUTPUT,
        bool,
        flag="no-store",
        inverted=True,
        rare=True,
    )

    def __post_init__(self) -> None:
        check(self)
