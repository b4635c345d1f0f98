"""From measured seconds to the numbers of the tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from .measure import OURS, PLAIN, SHALLOW_DEPTH, STOCK, Depth, Measured


@dataclass(frozen=True)
class Spread:
    """Median, least and most of some numbers."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        return cls(median(numbers), min(numbers), max(numbers))


@dataclass(frozen=True)
class Row:
    """What one depth comes to. Rates are tokens a second; ratios are stock's seconds over ours, pair by pair.

    read, write : by side.
    read_ratio, write_ratio, first_token_ratio : None without stock.
    gate_share : of the time of writing a token, what goes when the gates go; None without gates, and where it is not
        measured.
    gate_bytes_share : of the time of writing a token, what it takes to read the gates' weights in one run.
    evict_share : None if nothing was evicted meanwhile.
    kv_rate : bytes a second at which K and V, and archived K, are read in writing, attention alone; None where that is lost
        in the noise.
    """

    depth: int
    read: dict[str, float]
    write: dict[str, float]
    first_token: dict[str, float]
    read_ratio: Spread | None
    write_ratio: Spread | None
    first_token_ratio: float | None
    gate_share: Spread | None
    gate_bytes_share: float
    evict_share: float | None
    kv_rate: float | None


def summarise(found: Sequence[Depth], gate_seconds: float) -> list[Row]:
    """A row for each depth.

    Parameters
    ----------
    gate_seconds : that the machine takes to read the gates' weights in one run.
    """
    return [_row(depth, gate_seconds) for depth in found]


def _row(found: Depth, gate_seconds: float) -> Row:
    ours, stock, plain = found.sides[OURS], found.sides.get(STOCK), found.sides.get(PLAIN)
    return Row(
        depth=found.depth,
        read={name: found.n_read / median(side.read_seconds) for name, side in found.sides.items()},
        write={name: 1 / median(side.write_seconds) for name, side in found.sides.items()},
        first_token={name: side.first_token_seconds for name, side in found.sides.items()},
        read_ratio=_ratio(stock, ours, "read_seconds"),
        write_ratio=_ratio(stock, ours, "write_seconds"),
        first_token_ratio=stock.first_token_seconds / ours.first_token_seconds if stock else None,
        gate_share=Spread.of([1 - b / a for a, b in zip(ours.write_seconds, plain.write_seconds)]) if plain else None,
        gate_bytes_share=gate_seconds / median(ours.write_seconds),
        evict_share=ours.evict_share,
        kv_rate=_kv_rate(ours, found.shallow_seconds),
    )


def _ratio(stock: Measured | None, ours: Measured, name: str) -> Spread | None:
    return Spread.of([a / b for a, b in zip(getattr(stock, name), getattr(ours, name))]) if stock else None


def _kv_rate(ours: Measured, shallow: Sequence[float]) -> float | None:
    """Bytes of the cells over the time that a token takes longer than next to no cells, turn by turn."""
    longer = median(here - there for here, there in zip(ours.write_seconds, shallow))
    n_bytes = (ours.stats["n_cells"] - SHALLOW_DEPTH * ours.stats["n_cell_lists"]) * ours.stats["bytes_cell"]
    n_bytes += ours.stats["bytes_archived"] // 2  # all keys are scanned, and few values read
    return n_bytes / longer if longer > 0 else None
