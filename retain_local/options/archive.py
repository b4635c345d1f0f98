"""Reading what is said of the archive of evicted cells: how large it may be, and the share of the budget for recalled cells."""

from __future__ import annotations

import math
import operator
from contextlib import suppress
from fractions import Fraction
from typing import Any, SupportsIndex

from ..errors import UsageError
from .budget import BYTES_OF, LONGEST, QUANTITY, UNITS, shortened

ARCHIVE_TYPES = ("q4_0", "q8_0")
AUTO_ARCHIVE, NO_ARCHIVE = "auto", 0
AUTO_TYPE = "auto"
WITHOUT_ARCHIVE: dict[str, Any] = {  # the options of a cache that recalls nothing
    "archive": NO_ARCHIVE,
    "recall": None,
    "archive_type": AUTO_TYPE,
    "archive_file": None,
}
AUTO_BYTES = 512 << 20  # of which only what is archived is used
DEFAULT_RECALL = 0.25
MOST_RECALL = 0.9

_MOST_BYTES = 2**62  # of the 64-bit counts of the native library
_BLOCK = 32  # numbers of a row that are rounded together
_PAGE = 128  # cells of a page of the archive
_SIZE, _SHARE = "a size (512MiB), auto, or 0 for none", f"a share of the budget (25%, 1/4) of at most {MOST_RECALL:.0%}"


def parse_archive(value: object) -> int | str:
    """Bytes of K and V that the archive may take: an int is bytes, a text has a unit, as in ``512MiB``; 0 is none, and
    ``auto`` what `automatic_archive` says.

    Raises
    ------
    UsageError : it is no size.
    """
    if value == AUTO_ARCHIVE:
        return AUTO_ARCHIVE
    if isinstance(value, str):
        match = QUANTITY.fullmatch(value.strip()) if len(value) <= LONGEST else None
        if match is None or match[2] is not None or match[3] == "%":
            raise UsageError(f"archive {shortened(value)} is not {_SIZE}")
        number, unit = Fraction(match[1]), match[3]
        if unit is None and number:
            raise UsageError(f"archive {value!r} has no unit; write {match[1]}MiB, or 0 for none")
        if unit is not None and unit.lower() not in BYTES_OF:
            raise UsageError(f"archive {value!r} has the unknown unit {unit!r}; use {', '.join(UNITS)}")
        n_bytes = math.ceil(number * BYTES_OF[unit.lower()]) if unit else 0
    else:
        try:
            if isinstance(value, bool) or not isinstance(value, SupportsIndex):
                raise TypeError
            n_bytes = operator.index(value)
        except TypeError:
            raise UsageError(f"archive {shortened(value)} is not {_SIZE}") from None
    if not 0 <= n_bytes <= _MOST_BYTES:
        raise UsageError(f"archive {shortened(value)} is out of range; it is {_SIZE}")
    return n_bytes


def automatic_archive(n_head_kv: int, head_k: int, head_v: int, cells: int, n_room: int) -> int:
    """Bytes of an archive that nobody gave a size: `AUTO_BYTES`, or 0 where the native library would refuse them.

    Parameters
    ----------
    n_head_kv : KV heads of all layers.
    head_k, head_v : numbers in a K row and a V row of one head.
    cells, n_room : the budget, and the tokens that may come in over it.
    """
    if head_k % _BLOCK or head_v % _BLOCK:
        return NO_ARCHIVE
    page = _PAGE * (head_k + head_v) * 17 // 16  # q8_0: 34 bytes for 32 numbers
    least = n_head_kv + math.ceil(8 * (cells + n_room) / _PAGE)  # as in native/src/retain-archive.cpp
    return AUTO_BYTES if least * page <= AUTO_BYTES else NO_ARCHIVE


def automatic_type(head_k: int, head_v: int) -> str:
    """The type of archived rows that nobody chose: with heads of 32 and of 64 numbers exact keys are found more often where
    these are in 8 bits (docs/results.md)."""
    return "q8_0" if min(head_k, head_v) < 128 else "q4_0"


def parse_recall(value: object) -> float:
    """The share of the budget for recalled cells: 0.25, ``25%`` or ``1/4``; 0 recalls none.

    Raises
    ------
    UsageError : it is no share, or more than `MOST_RECALL`.
    """
    share: float | None = None
    if isinstance(value, str):
        match = QUANTITY.fullmatch(value.strip()) if len(value) <= LONGEST else None
        if match is not None and match[3] in (None, "%") and not (match[2] and int(match[2]) == 0):
            share = float(Fraction(match[1]) / (int(match[2]) if match[2] else 100 if match[3] else 1))
    elif not isinstance(value, (bool, bytes)):
        with suppress(TypeError, ValueError, OverflowError):
            share = float(value)  # type: ignore[arg-type]
    if share is None or not 0 <= share <= MOST_RECALL:
        raise UsageError(f"recall {shortened(value)} is not {_SHARE}")
    return share


def residents(budget: int, recall: float) -> int:
    """Cells that an eviction leaves in the pool per (layer, KV head) on average: the budget without those to recall."""
    return budget - math.floor(recall * budget)


def size_text(n_bytes: int | str) -> str:
    """A size as `parse_archive` reads it: "512MiB"."""
    if isinstance(n_bytes, str):
        return n_bytes
    for unit in ("GiB", "MiB", "KiB"):
        if n_bytes % UNITS[unit] == 0 and n_bytes:
            return f"{n_bytes // UNITS[unit]}{unit}"
    return f"{n_bytes}B"


def share_text(recall: float) -> str:
    """A share as it is shown: "25%"."""
    return f"{100 * recall:g}%"
