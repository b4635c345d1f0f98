"""The measurement: at each depth all sides read and write in turn, so that what slows the machine slows them alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from .side import Side

SHALLOW_DEPTH = 16  # where attention costs next to nothing: what is left are the weights
FILL_FROM = 8192  # stock reads so many tokens at most; a deeper cache of it is filled instead
READ_AT_ONCE = 16  # ubatches, after which it is told how far a side has come
PLAIN_TO = 8192  # what gates cost does not depend on the depth: deeper than this it is not measured
STOCK, OURS, PLAIN, SHALLOW = "stock", "retain-local", "without gates", "next to no cells"


@dataclass
class Measured:
    """One side at one depth.

    read_seconds : of the last ubatch before the depth, each time it was read.
    write_seconds : of each of the tokens after it, each time some were written; means over those of one time.
    first_token_seconds : to read a prompt of that length.
    is_estimated : it was not read whole, and follows from the ubatches that were.
    evict_share : of the time of writing, in selecting, moving and archiving cells; None if nothing was evicted meanwhile.
    stats : as `Worker.stats` gives them.
    """

    read_seconds: list[float] = field(default_factory=list)
    write_seconds: list[float] = field(default_factory=list)
    first_token_seconds: float = 0.0
    is_estimated: bool = False
    evict_share: float | None = None
    stats: dict[str, Any] = field(default_factory=dict)


@dataclass
class Depth:
    """The sides at one depth.

    n_read : tokens of `read_seconds`.
    shallow_seconds : of a token at `SHALLOW_DEPTH`, each time after the sides had written here.
    """

    depth: int
    n_read: int
    sides: dict[str, Measured]
    shallow_seconds: list[float] = field(default_factory=list)


def sides_at(depth: int, sides: Sequence[Side]) -> list[Side]:
    """Those that are measured at a depth."""
    return [side for side in sides if side.name != PLAIN or depth <= PLAIN_TO]


def in_turn(sides: Sequence[Side], turn: int) -> Sequence[Side]:
    """Each second time the other way round: what comes first finds other caches than what comes second."""
    return sides if turn % 2 == 0 else sides[::-1]


class Measurement:
    """Goes through the depths, from the lowest.

    Parameters
    ----------
    sides : the processes.
    shallow : one more of ours, which stays at `SHALLOW_DEPTH`.
    n_ubatch : tokens of a reading.
    n_write : tokens of a writing.
    repeat : how often each is done.
    on_step : called before each piece of work with what it is, and the steps that are begun with it: 0 within a step.
    """

    def __init__(
        self,
        sides: Sequence[Side],
        shallow: Side,
        n_ubatch: int,
        n_write: int,
        repeat: int,
        on_step: Callable[[str, int], None],
    ) -> None:
        self._sides, self._shallow = sides, shallow
        self._n_ubatch, self._n_write, self._repeat = n_ubatch, n_write, repeat
        self._on_step = on_step
        self._at = {side.name: 0 for side in sides}  # depth of each side's cache
        self._known = dict(self._at)  # depth as far as the next two are known
        self._read: dict[str, float] = {side.name: 0.0 for side in sides}  # seconds to read so far
        self._rate: dict[str, float] = {}  # seconds a token there
        self._last = 0

    def run(self, depths: Sequence[int]) -> list[Depth]:
        """Measure at the depths, which must ascend."""
        self._shallow.ask("read", n=SHALLOW_DEPTH)
        return [self._measure(depth) for depth in depths]

    def _measure(self, depth: int) -> Depth:
        n_read = min(self._n_ubatch, depth - self._last)
        sides = sides_at(depth, self._sides)
        found = Depth(depth, n_read, {side.name: Measured() for side in sides})
        for side in sides:
            self._on_step(f"{side.name}: going to {depth:,}", 1)
            self._go(side, depth - n_read, found.sides[side.name])
        for turn in range(self._repeat):
            for side in in_turn(sides, turn):
                self._on_step(f"{side.name}: reading at {depth:,}", 1)
                self._back(side, depth - n_read)
                found.sides[side.name].read_seconds.append(sum(side.ask("read", n=n_read)))
                self._at[side.name] += n_read
        before = {side.name: side.ask("stats") for side in sides}
        for turn in range(self._repeat):
            for side in in_turn(sides, turn):
                self._on_step(f"{side.name}: writing at {depth:,}", 1)
                self._back(side, depth)
                found.sides[side.name].write_seconds.append(side.ask("write", n=self._n_write) / self._n_write)
                self._at[side.name] += self._n_write
            found.shallow_seconds.append(self._shallow.ask("write", n=self._n_write) / self._n_write)
            self._shallow.ask("back", depth=SHALLOW_DEPTH)
        for side in sides:
            self._finish(side, found, before[side.name])
        self._last = depth
        return found

    def _go(self, side: Side, depth: int, found: Measured) -> None:
        self._back(side, depth)
        n = depth - self._at[side.name]
        needed = depth - self._known[side.name]  # less was read where the cache could not go back
        if n <= 0:
            self._read[side.name] += needed * self._rate.get(side.name, 0.0)
        elif side.name == STOCK and depth > FILL_FROM and side.ask("can_fill"):
            if side.name not in self._rate:  # the first depth: what reading costs at the start, to estimate from
                self._read[side.name] = sum(side.ask("read", n=self._n_ubatch))
                self._rate[side.name] = self._read[side.name] / self._n_ubatch
                self._known[side.name] = self._n_ubatch
            side.ask("fill", depth=depth)
            self._at[side.name], found.is_estimated = depth, True
        else:
            seconds = 0.0
            while (left := depth - self._at[side.name]) > 0:
                self._on_step(f"{side.name}: {self._at[side.name]:,} of {depth:,} tokens read", 0)
                piece = min(left, READ_AT_ONCE * self._n_ubatch)
                seconds += sum(side.ask("read", n=piece))
                self._at[side.name] += piece
            self._read[side.name] += seconds * needed / n

    def _back(self, side: Side, depth: int) -> None:
        """Go back to a depth, where that leaves the cache as it was. After an eviction it stays deeper, at equal cost."""
        if self._at[side.name] > depth and side.ask("back", depth=depth):
            self._at[side.name] = depth

    def _finish(self, side: Side, found: Depth, before: dict[str, Any]) -> None:
        measured = found.sides[side.name]
        last = median(measured.read_seconds)
        rate = last / found.n_read
        if measured.is_estimated:  # cost grows linearly with the depth
            n = found.depth - found.n_read - self._known[side.name]
            self._read[side.name] += n * (self._rate[side.name] + rate) / 2
        self._read[side.name] += last
        self._rate[side.name], self._known[side.name] = rate, found.depth
        measured.first_token_seconds = self._read[side.name]
        measured.stats = side.ask("stats")
        if side.name != STOCK and measured.stats["n_evictions"] > before["n_evictions"]:
            spent = sum(measured.stats[name] - before[name] for name in ("t_select_s", "t_move_s", "t_archive_s"))
            measured.evict_share = spent / (sum(measured.write_seconds) * self._n_write)
