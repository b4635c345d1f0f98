"""Reading a budget: cells, a share of the context, or bytes of KV."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from .errors import UsageError

DEFAULT_BUDGET = 2048
AUTO_BUDGET = "auto"  # what an audit recommended; see `audit/recommendation.py`

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_BYTES = {unit.lower(): size for unit, size in _UNITS.items()}
_FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(%|[a-z]*)\s*", re.IGNORECASE)

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


def parse_budget(value: int | str | None, *, n_ctx: int, bytes_per_token: int, n_room: int) -> int:
    """The budget M in cells per (layer, KV head) on average.

    Parameters
    ----------
    value : cells ("2048"), share of the context ("25%"), or size of the whole pool ("512MiB"; also KiB, GiB, KB, MB,
        GB). None: `DEFAULT_BUDGET`, or the context where that is shorter.
    n_ctx : tokens of the context: a budget beyond it could never be filled.
    bytes_per_token : bytes that one token takes in a full cache, all layers and heads.
    n_room : tokens that the pool holds over the budget, max(buffer, n_ubatch): a size in bytes covers them too.

    Raises
    ------
    UsageError : not a budget, less than one cell, or more than the context.
    """
    if value is None:
        return min(DEFAULT_BUDGET, n_ctx)
    if isinstance(value, int) and not isinstance(value, bool):
        cells = value
    else:
        cells = _parse_text(str(value), n_ctx, bytes_per_token, n_room)
    if cells < 1:
        raise UsageError(f"budget {value!r} leaves {cells} cells; it must be at least 1")
    if cells > n_ctx:
        raise UsageError(
            f"a budget of {cells} cells is more than the context of {n_ctx} tokens can fill; use at most {n_ctx},"
            " or a longer context"
        )
    return cells


def _parse_text(text: str, n_ctx: int, bytes_per_token: int, n_room: int) -> int:
    match = _FORM.fullmatch(text)
    if match is None:
        raise UsageError(f"budget {text!r} is not a number of cells (2048), a share (25%) or a size (512MiB)")
    number, unit = float(match[1]), match[2]
    if not unit:
        if "." in match[1]:
            raise UsageError(f"budget {text!r} is not a whole number of cells")
        return int(match[1])
    if unit == "%":
        if number > 100:
            raise UsageError(f"budget {text!r} is more than the whole context")
        return math.floor(n_ctx * number / 100)
    if unit.lower() not in _BYTES:
        raise UsageError(f"budget {text!r} has the unknown unit {unit!r}; use {', '.join(_UNITS)} or %")
    size = math.floor(number * _BYTES[unit.lower()])
    cells = size // bytes_per_token - n_room
    if cells < 1:
        least = (1 + n_room) * bytes_per_token
        raise UsageError(
            f"budget {text!r} is too small: with {n_room} tokens of room over the budget this model needs"
            f" {least} bytes at least"
        )
    return min(cells, n_ctx)
