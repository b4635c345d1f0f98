"""How a prompt is read, and what a cache holds of such a reading: what decides whether its cells may be used again.

A cell is let go by what stood beside it, so a cache depends on where its evictions fell, and in its last bits on which
tokens were computed together. A prompt is therefore always cut at the same places, counted from its start; and of the
cells that are there only those are used that reading the prompt from its start would have left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ..vision.layout import Layout

if TYPE_CHECKING:
    from ..retention.stats import Steering


@dataclass(frozen=True)
class ReadingPlan:
    """Where a prompt is cut, and where evictions run while it is read. All counts are of tokens, or of cells per list.

    budget : cells that an eviction leaves: M, less those that are for recalled cells.
    buffer : tokens that may come in over the budget before an eviction runs.
    n_ubatch : tokens computed at once.
    n_most : cells that the pool holds: an eviction runs before a ubatch that would not fit.
    is_held : evictions wait until the whole prompt is read.
    layout : the pictures of the prompt: where one begins and ends it is cut, and nowhere within one that is not causal.
    """

    budget: int
    buffer: int
    n_ubatch: int
    n_most: int
    is_held: bool = False
    layout: Layout = field(default_factory=Layout, compare=False)

    def last_cut(self, n: int) -> int:
        """The last place, at most n, where a long prompt is cut, and could end."""
        return max(self.layout.place_before(self._last_in_grid(n)), self.layout.last_edge(n))

    def next_cut(self, n: int) -> int:
        """Where the ubatch that begins with token n ends, if the prompt goes on so far."""
        _, stop = self._stretch(n)
        after = self._last_in_grid(n) + self.n_ubatch
        return self.layout.next_edge(n, after if stop is None else min(after, stop))

    def _last_in_grid(self, n: int) -> int:
        """The last place, at most n, where a long prompt without pictures is cut."""
        start, _ = self._stretch(n)
        return n - (n - start) % self.n_ubatch

    def _stretch(self, n: int) -> tuple[int, int | None]:
        """The tokens around n between two evictions, where ubatches are counted from the first of them.

        With a buffer of a ubatch or more every eviction can be given its place, at budget + k · buffer tokens, where
        evictions fall too while text is written. With a smaller one they fall elsewhere in a prompt, whatever the cuts.
        """
        if self.is_held or self.buffer < self.n_ubatch:
            return 0, None
        k = (n - self.budget) // self.buffer
        if k < 1:
            return 0, self.budget + self.buffer
        return self.budget + k * self.buffer, self.budget + (k + 1) * self.buffer

    def evictions(self, stop: int, start: int = 0, n_cells: int = 0) -> list[int]:
        """Tokens seen at each eviction while the tokens [start, stop) are read into a cache of n_cells.

        The one that the last of them make due is among them, although it runs only when a token follows.
        """
        if self.is_held:
            return [stop] if n_cells + stop - start > self.budget else []
        return list(self._evictions(stop, start, n_cells))

    def _evictions(self, stop: int, n: int, n_cells: int) -> Iterator[int]:
        while n < stop:
            end = min(self.next_cut(n), stop)
            if self._is_due(n_cells) or n_cells + end - n > self.n_most:
                n_cells = self.budget
                yield n
            n_cells += end - n
            n = end
        if self._is_due(n_cells):
            yield n

    def _is_due(self, n_cells: int) -> bool:
        return n_cells >= self.budget + max(1, self.buffer)


class Eviction(NamedTuple):
    """An eviction that ran: after how many tokens, and what decided what it kept; None where that is not known."""

    at: int
    steering: Steering | None


@dataclass
class CacheHistory:
    """How the tokens in a cache came there.

    evictions : those that the cells went through, in their order.
    n_whole : tokens, up to a cut, that were computed in the ubatches of a reading from the start.
    n_part : the end of the ubatch after them, which was cut short as at the end of a prompt; n_whole where there is none.
    n_read : tokens that came as a prompt. What follows was written by the model, one by one.
    """

    evictions: list[Eviction] = field(default_factory=list)
    n_whole: int = 0
    n_part: int = 0
    n_read: int = 0
    _plan: ReadingPlan | None = None

    def copy(self) -> CacheHistory:
        """A copy that can be pickled: a scorer is of this process alone, and what it decided is not known elsewhere."""
        evictions = [
            Eviction(at, None if steering is None or steering.scorer is not None else steering)
            for at, steering in self.evictions
        ]
        return CacheHistory(evictions, self.n_whole, self.n_part, self.n_read, self._plan)

    def follow(self, plan: ReadingPlan) -> None:
        """Prompts are read by this plan from now on."""
        if plan != self._plan:
            self.n_whole, self.n_part = 0, 0
        self._plan = plan

    def cut(self, n: int) -> None:
        """The tokens from n on were taken out of the cache."""
        self.evictions = [eviction for eviction in self.evictions if 0 < eviction.at <= n]
        if n < self.n_whole:
            self.n_whole = self._plan.last_cut(n) if self._plan is not None else 0
        if n < self.n_part:
            self.n_part = self.n_whole
        self.n_read = min(self.n_read, n)

    def computed(self, start: int, stop: int) -> None:
        """The tokens [start, stop) were computed in one ubatch."""
        if self._plan is None or start != self.n_whole:
            return
        end = self._plan.next_cut(start)
        if stop <= end:
            self.n_part = stop
        if stop == end:
            self.n_whole = stop

    def read_to(self, start: int, stop: int) -> None:
        """The tokens [start, stop) were read as part of a prompt."""
        if start <= self.n_read:
            self.n_read = max(self.n_read, stop)

    def reusable(self, n_common: int, stop: int, steering: Steering) -> int:
        """How many tokens of a prompt need not be read again; see `follow` for the plan.

        Text that came as a prompt is used up to where the remaining ubatches are those of a reading from the start, so
        that all bits are. Text that the model wrote is used as it is: reading it again would take as long as the text
        is, and give the same cells up to rounding.

        Parameters
        ----------
        n_common : tokens that the cache and the prompt have in common, at most `stop`.
        stop : tokens that are read as one prompt.
        steering : what decides today what an eviction keeps.
        """
        assert self._plan is not None
        wanted = self._plan.evictions(stop)
        for n in self._candidates(n_common, stop):
            if self._agrees(n, stop, wanted, steering):
                return n
        return 0

    def _candidates(self, n_common: int, stop: int) -> Iterator[int]:
        assert self._plan is not None
        if n_common > self.n_read or n_common == stop == self.n_part:
            yield n_common
        yield self._plan.last_cut(min(n_common, self.n_whole))

    def _agrees(self, n: int, stop: int, wanted: list[int], steering: Steering) -> bool:
        """Whether the first n tokens went through the evictions that they would in a prompt, and the rest will."""
        assert self._plan is not None
        if any(eviction.at > n or eviction.steering != steering for eviction in self.evictions):
            return False
        had = [eviction.at for eviction in self.evictions]
        n_cells = self._plan.budget + n - had[-1] if had else n
        return had + self._plan.evictions(stop, n, n_cells) == wanted
