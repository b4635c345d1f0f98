"""What the native memory promises about sequences, in plain NumPy: the cells of `reference.Cache`, and beside them what
can be cut back to, copied, shifted and pinned.

Each operation returns whether it is allowed; one that is not changes nothing.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np

from support.reference import Cache, Options

POS_MAX = 2**31 - 3  # the last position that a cell can have


@dataclass
class Sequence(Cache):
    """A cache with its past.

    evicted_at : the next position when cells last went that cannot come back.
    shifted : whether keys wait to be turned, which the next decoding does.
    """

    evicted_at: int = 0
    shifted: bool = False

    def evict(self) -> None:
        before = self.n_cells
        super().evict()
        if self.n_cells < before:
            self.evicted_at = self.next_pos

    @property
    def rollback_limit(self) -> int:
        return self.evicted_at

    @property
    def pos_min(self) -> int:
        """What `llama_memory_seq_pos_min` says."""
        if self.rollback_limit:
            return self.rollback_limit - 1
        return int(self.pos.min()) if self.n_cells else -1

    @property
    def per_stream(self) -> int:
        """Cells per stream on average, rounded up."""
        return -(-self.n_cells // self.n_cell_lists)

    def n_protected(self, pins: list[tuple[int, int]]) -> int:
        """Tokens that sinks, the recent window and pins keep."""
        return self.options.n_sink + self.options.n_recent + self.n_tokens_in(pins)

    def can_read(self, n: int) -> bool:
        """Whether n more tokens are taken: policy none refuses, and a hold that no room is left for."""
        if self.options.policy == "none":
            return self.per_stream + n <= self.options.budget
        return not self.hold or self.per_stream + n <= self.n_max // self.n_cell_lists

    def clear(self) -> None:
        self._keep(np.empty(0, int))
        self.pinned, self.n_seen, self.next_pos, self.evicted_at = [], 0, 0, 0
        self.shifted = self.released = False

    def cut(self, p0: int, p1: int) -> bool:
        """Remove positions [p0, p1); p1 < 0 is the end."""
        p0, p1 = max(p0, 0), 2**31 - 1 if p1 < 0 else p1
        if self.refuses_cut(p0, p1):
            return False
        if p0 == 0 and p1 >= self.next_pos:
            self.clear()
        elif p0 < min(self.next_pos, p1):
            middle = p1 < self.next_pos
            self.remove(p0, p1)
            self.shifted = self.shifted and self.n_cells > 0
            if middle:
                self.evicted_at = self.next_pos
            else:
                self._end_at_a_token()
        return True

    def _end_at_a_token(self) -> None:
        """The last position is one that a token was seen at."""
        self.next_pos = max(self.evicted_at, int(self.pos.max(initial=-1)) + 1)
        if self.next_pos == 0:
            self.n_seen = 0

    def refuses_cut(self, p0: int, p1: int) -> bool:
        p1 = 2**31 - 1 if p1 < 0 else p1
        return 0 < p0 < self.next_pos <= p1 and p0 < self.rollback_limit

    def pin(self, p0: int, p1: int) -> bool:
        if p0 < 0 or p1 <= p0 or self.n_protected([*self.pinned, (p0, p1)]) > self.options.budget:
            return False
        self.pinned = [*self.pinned, (p0, p1)]
        return True

    def unpin(self, p0: int, p1: int) -> None:
        self.pinned = [pin for pin in self.pinned if not (pin[1] > p0 and (p1 < 0 or pin[0] < p1))]

    def set_budget(self, budget: int, most: int) -> bool:
        """most : the budget that the context was made with."""
        fits = 1 <= budget <= most and self.n_protected(self.pinned) <= budget >= self.options.min_per_head
        if not fits or (self.options.policy == "none" and self.per_stream > budget and not self.hold):
            return False
        self.options = replace(self.options, budget=budget)
        if not self.hold:
            self.evict()
        return True

    def copied_into(self, other: Sequence, p0: int, p1: int) -> Sequence:
        """What another sequence is after positions [p0, p1) were copied into it: itself where that is refused."""
        p0, p1 = max(p0, 0), 2**31 - 1 if p1 < 0 else p1
        budget = other.options.budget
        pins = [(max(a, p0), min(b, p1)) for a, b in self.pinned if max(a, p0) < min(b, p1)]
        if (
            p0 >= p1
            or (p0 > 0 and p0 >= self.next_pos)
            or (p1 < self.next_pos and p1 < self.rollback_limit)
            or (self.options.policy == "none" and self.per_stream > budget < self.options.budget)
            or new_sequence(self.n_layer, self.n_head_kv, self.options).n_protected(pins) > budget  # by positions
        ):
            return other
        result = copy.deepcopy(self)
        result.options, result.pinned, result.hold = other.options, pins, other.hold
        if p1 < self.next_pos:
            result.remove(p1, 2**31 - 1)
            result._end_at_a_token()
        result._keep(np.flatnonzero(result.pos >= p0))
        result.evicted_at = result.next_pos if p0 > 0 else self.evicted_at
        result.shifted = self.shifted and result.n_cells > 0
        if result.per_stream > budget < self.options.budget and not result.hold:
            result.evict()
        return result

    def has_holes(self) -> bool:
        for il in range(self.n_layer):
            for head in range(self.n_head_kv):
                ordinal = self.cells(il, head)[1]
                if self.n_seen and (not len(ordinal) or len(ordinal) != self.n_seen - ordinal[0]):
                    return True
        return False

    def shift(self, p0: int, p1: int, delta: int) -> bool:
        """Move positions [p0, p1) by delta."""
        p0, p1 = max(p0, 0), 2**31 - 1 if p1 < 0 else p1
        if self.has_holes():
            return False
        first = int(self.pos.min()) if self.n_cells else -1
        begin, end = max(p0, first), min(p1, self.next_pos)
        if begin >= end or delta == 0:
            return True
        moved = (self.pos >= begin) & (self.pos < end)
        if (
            self.n_seen != self.next_pos
            or end - 1 + delta > POS_MAX
            or set(self.pos[moved] + delta) & set(self.pos[~moved])
        ):
            return False
        self.pos, self.ordinal = self.pos + delta * moved, self.ordinal + delta * moved
        self._keep(np.flatnonzero(self.pos >= 0))
        self.n_seen = self.next_pos = int(self.pos.max(initial=-1)) + 1
        self.evicted_at, self.shifted = self.next_pos, self.n_cells > 0
        return True


def new_sequence(n_layer: int, n_head_kv: int, options: Options) -> Sequence:
    return Sequence(n_layer, n_head_kv, options)
