"""What `bench` can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..options.table import check, option

_WHAT, _OUTPUT = "What is measured", "Output"


@dataclass(frozen=True)
class BenchOptions:
    """What is measured, and where the results go; each field's `Option` says what it is."""

    depths: str = option(
        "512,2048,4096,8192", "How many tokens were read before each measurement, comma-separated.", _WHAT, str
    )
    tokens: int = option(32, "How many tokens to decode for each measurement.", _WHAT, int, least=1)
    repeat: int = option(5, "How often to measure prefill and decode at each depth.", _WHAT, int, least=1, rare=True)
    vs_stock: bool = option(
        False,
        "Measure stock llama.cpp of the same version in turn with it. It is built on the first use, which takes minutes.",
        _WHAT,
        bool,
    )
    anyway: bool = option(False, "Measure even if the machine is busy.", _WHAT, bool, rare=True)
    json: Path | None = option(None, "Write all numbers to this file.", _OUTPUT, Path)
    plot: Path | None = option(None, "Draw speed over depth to this file (.png, .svg, .pdf).", _OUTPUT, Path)

    def __post_init__(self) -> None:
        check(self)
