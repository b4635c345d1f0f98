"""Reading a budget: cells, a share of the text or of the context, or bytes of KV."""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import SupportsIndex

from ..errors import UsageError

DEFAULT_BUDGET = 2048
AUTO_BUDGET = "auto"  # what an audit recommended; see `recommendation.py`

_FORMS = "a number of cells (2048), a share (1/4, 25%) or a size (512MiB)"
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
BYTES_OF = {unit.lower(): size for unit, size in UNITS.items()}
QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*(?:/\s*(\d+)|(%|[a-z]+))?", re.IGNORECASE | re.ASCII)
_MOST = 10**15  # Python refuses to write numbers of thousands of digits
LONGEST = 40  # characters


@dataclass(frozen=True)
class Budget:
    """Cells per (layer, KV head) as they are asked for: a number, a share of a text, or a size of the whole pool.

    cells : the number; share : more than 0, at most 1; size : bytes. All but one are 0 or None.
    """

    cells: int = 0
    share: Fraction | None = None
    size: int = 0

    @classmethod
    def parse(cls, value: object, sizes: bool = False) -> Budget:
        """Read 512, ``512``, ``1/8``, ``12.5%`` or, with `sizes`, ``512MiB``.

        Raises
        ------
        UsageError : none of these, or not more than 0 and, as a share, at most 1.
        """
        if isinstance(value, str):
            budget = cls._parse_text(value)
            if budget.size and not sizes:
                raise UsageError(
                    f"budget {value!r} is a size; here it is a number of cells (512) or a share (1/8, 12.5%)"
                )
            return budget
        try:
            if isinstance(value, bool) or not isinstance(value, SupportsIndex):
                raise TypeError
            cells = operator.index(value)
        except TypeError:
            raise UsageError(f"budget {value!r} is not {_FORMS}") from None
        if cells < 1:
            raise UsageError(f"budget {value!r} leaves {cells} cells; it must be at least 1")
        if cells > _MOST:
            raise UsageError(f"a budget of more than {_MOST:,} cells is more than any context can fill")
        return cls(cells=cells)

    @classmethod
    def _parse_text(cls, text: str) -> Budget:
        match = QUANTITY.fullmatch(text.strip()) if len(text) <= LONGEST else None
        if match is None:
            raise UsageError(f"budget {shortened(text)} is not {_FORMS}")
        number, divisor, unit = Fraction(match[1]), match[2], match[3]
        if divisor is not None or unit == "%":
            if divisor is not None and int(divisor) == 0:
                raise UsageError(f"budget {text!r} divides by zero")
            share = number / (100 if divisor is None else int(divisor))
            if not 0 < share <= 1:
                raise UsageError(f"budget {text!r} is not a share: it must be more than 0 and at most 1 (100%)")
            return cls(share=share)
        if unit is None:
            if "." in match[1]:
                raise UsageError(f"budget {text!r} is not a whole number of cells; a share is written as 1/4 or 25%")
            return cls.parse(int(number))
        if unit.lower() not in BYTES_OF:
            raise UsageError(f"budget {text!r} has the unknown unit {unit!r}; use {', '.join(UNITS)} or %")
        return cls(size=math.floor(number * BYTES_OF[unit.lower()]) or 1)

    def of(self, n_tokens: int) -> int:
        """Cells for a text of so many tokens, at least 1; not for a size."""
        return max(1, int(n_tokens * self.share)) if self.share is not None else self.cells

    def __str__(self) -> str:
        if self.share is None:
            return str(self.cells)
        if self.share.numerator == 1 and self.share != 1:
            return str(self.share)
        return f"{float(100 * self.share):g}%"


def parse_budget(value: object, *, n_ctx: int, bytes_per_token: int, n_room: int) -> int:
    """The budget M in cells per (layer, KV head) on average.

    Parameters
    ----------
    value : cells (2048), share of the context ("1/4", "25%"), or size of the whole pool ("512MiB"; also KiB, GiB, KB,
        MB, GB). None: `DEFAULT_BUDGET`, or the context where that is shorter.
    n_ctx : tokens of the context: a budget beyond it could never be filled.
    bytes_per_token : bytes that one token takes in a full cache, all layers and heads.
    n_room : tokens that the pool holds over the budget, max(buffer, n_ubatch): a size in bytes covers them too.

    Raises
    ------
    UsageError : not a budget, less than one cell, or more than the context.
    """
    if value is None:
        return min(DEFAULT_BUDGET, n_ctx)
    budget = Budget.parse(value, sizes=True)
    if budget.size:
        cells = budget.size // bytes_per_token - n_room
        if cells < 1:
            least = (1 + n_room) * bytes_per_token
            raise UsageError(
                f"budget {value!r} is too small: with {n_room} tokens of room over the budget this model needs"
                f" {least} bytes at least"
            )
        return min(cells, n_ctx)
    cells = int(n_ctx * budget.share) if budget.share is not None else budget.cells
    if cells < 1:
        raise UsageError(f"budget {value!r} leaves {cells} cells; it must be at least 1")
    if cells > n_ctx:
        raise UsageError(
            f"a budget of {cells} cells is more than the context of {n_ctx} tokens can fill; use at most {n_ctx},"
            " or a longer context"
        )
    return cells


def shortened(value: object) -> str:
    """A bad value as a message shows it: `LONGEST` characters at most."""
    text = repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
