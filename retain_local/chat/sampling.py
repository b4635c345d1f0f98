"""How tokens are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..options.table import check, option

MAX_SEED = 2**32 - 1

_SAMPLING = "Sampling"


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, and how many; each field's `Option` says what it is."""

    temp: float = option(
        0.8, "The temperature; 0 always takes the likeliest token.", _SAMPLING, float, least=0, most=100
    )
    top_k: int = option(40, "Draw from the K likeliest tokens; 0 draws from all.", _SAMPLING, int, rare=True)
    top_p: float = option(
        0.95,
        "Draw from the likeliest tokens that together have this probability.",
        _SAMPLING,
        float,
        least=0,
        most=1,
        rare=True,
    )
    min_p: float = option(
        0.05,
        "Draw from tokens that are at least this share as likely as the likeliest one.",
        _SAMPLING,
        float,
        least=0,
        most=1,
        rare=True,
    )
    repeat_penalty: float = option(
        1.0, "The penalty for tokens that occurred lately; 1 is none.", _SAMPLING, float, above=0, rare=True
    )
    seed: int | None = option(
        None, "The seed of the sampling.", _SAMPLING, int, most=MAX_SEED, unset="a new one each time", rare=True
    )
    max_tokens: int | None = option(
        None, "The most tokens to write.", _SAMPLING, int, least=1, most=2**31 - 1, unset="until the model stops"
    )

    def __post_init__(self) -> None:
        check(self)

    def arguments(self) -> dict[str, Any]:
        """The settings as `Llama.generate` takes them."""
        return {
            "temp": self.temp,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repeat_penalty": self.repeat_penalty,
        }
