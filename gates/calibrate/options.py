"""The settings of a calibration, checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ...options.table import check, option

KINDS = ("linear", "mlp")
_TEXT, _GATES = "Text", "Gates"


@dataclass(frozen=True)
class CalibrateOptions:
    """How gates are calibrated; each field's `Option` says what it is."""

    kind: str = option(
        "linear",
        "The form of the gates: one layer (linear), or a layer of random features before it (mlp).",
        _GATES,
        str,
        choices=lambda: KINDS,
    )
    tokens: int = option(
        12288, "How many tokens of text to read; half of them are read a second time.", _TEXT, int, least=1
    )
    window: int = option(
        2048, "How many tokens a piece of text has that is read at once.", _TEXT, int, least=64, rare=True
    )
    decay: float = option(
        1.5,
        "How fast the worth of a cell falls with its age: as the age to the power of minus this.",
        _GATES,
        float,
        above=0,
        rare=True,
    )
    ridge: float = option(
        0.01, "The weight of the penalty on large weights in the regression.", _GATES, float, above=0, rare=True
    )
    features: int = option(
        1024, "The width F of gates of the kind mlp, a multiple of 32.", _GATES, int, least=32, rare=True
    )
    seed: int = option(0, "The seed of the random features.", _GATES, int, rare=True)

    def __post_init__(self) -> None:
        check(self)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
