"""An independent cache of fixed size: which cells are kept, after the papers' formulas, in plain NumPy.

With n tokens seen, a cell that p tokens came before has the retention score (arXiv 2605.09649; log1mexp(x) = log(1 - e^x))

    s = (n + 1 - p) log beta                                                        lookahead 1
    s = (n + 2 - p) log beta + log1mexp(N log beta) - log1mexp(log beta)            lookahead N > 1

in float32 from float32 log beta. An eviction keeps the L H M cells with the highest s, wherever in the model they are.
For text p is the position; the tokens of a picture share positions, and p is their ordinal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Range = tuple[int, int]

SCOPES = ("global", "layer", "head")


def log1mexp(x: np.ndarray) -> np.ndarray:
    """log(1 - e^x) for x < 0."""
    return np.log(-np.expm1(x))


def gate_scores(n_seen: int, ordinal: np.ndarray, log_beta: np.ndarray, lookahead: int) -> np.ndarray:
    """Retention scores, [n] float32, of cells with `ordinal` [n] and `log_beta` [n] float32; NaN counts as -inf."""
    log_beta = np.where(np.isnan(log_beta), -np.inf, log_beta).astype(np.float32)
    if lookahead == 1:
        return (n_seen + 1 - ordinal).astype(np.float32) * log_beta
    wide = log_beta.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        future = log1mexp(lookahead * wide) - log1mexp(wide)
    future = np.where(wide == 0, np.log(lookahead), future).astype(np.float32)
    return (n_seen + 2 - ordinal).astype(np.float32) * log_beta + future


def window_scores(n_seen: int, ordinal: np.ndarray, log_beta: np.ndarray, lookahead: int) -> np.ndarray:
    """Scores of the window policy (StreamingLLM): the newest cells first."""
    return -(n_seen + 1 - ordinal).astype(np.float32)


SCORES = {"gate": gate_scores, "window": window_scores}


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's step and finalizer, [n] uint64."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def random_scores(seed: int, layer: np.ndarray, head: np.ndarray, ordinal: np.ndarray) -> np.ndarray:
    """Scores of the policy random in [0, 1), [n] float32, from hashes of seed, layer, head and ordinal."""
    state = _mix(np.full(len(ordinal), seed, np.uint64))
    for part in (layer, head, ordinal):
        state = _mix(state ^ part.astype(np.uint64))
    return ((state >> np.uint64(40)) / 2**24).astype(np.float32)


@dataclass
class Options:
    """What decides an eviction; names as in retain.h.

    is_static, window : of the gates: they give the score itself, and the newest cells that their maker wants kept.
    """

    budget: int
    buffer: int = 0
    n_ubatch: int = 512
    lookahead: int = 1
    n_sink: int = 0
    n_recent: int = 0
    min_per_head: int = 0
    policy: str = "gate"
    scope: str = "global"
    seed: int = 0
    is_static: bool = False
    window: int = 0


@dataclass
class Cache:
    """The cells of one sequence.

    n_layer, n_head_kv : L and H.
    options : as given to the native cache.
    score : replaces the policy's scores by a function of this cache, as the eviction hook does.
    pinned : position ranges [p0, p1) that are kept.
    hold : no eviction runs.
    released : a prompt was held: what is over the budget goes before the next token.
    n_seen : tokens seen.
    next_pos : the position after the last one seen.
    layer, head, pos, ordinal, log_beta : one entry per cell.
    n_max : cells that are never exceeded, L H (M + max(buffer, n_ubatch)); stays when the budget shrinks.
    """

    n_layer: int
    n_head_kv: int
    options: Options
    score: Callable[[Cache], np.ndarray] | None = None
    pinned: list[Range] = field(default_factory=list)
    hold: bool = False
    released: bool = False
    n_seen: int = 0
    next_pos: int = 0
    n_evictions: int = 0
    layer: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    head: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    pos: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    ordinal: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    log_beta: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    n_max: int = field(init=False)

    def __post_init__(self) -> None:
        self.n_max = self.n_cell_lists * (self.options.budget + max(self.options.buffer, self.options.n_ubatch))

    @property
    def n_cells(self) -> int:
        return len(self.pos)

    @property
    def n_cell_lists(self) -> int:
        return self.n_layer * self.n_head_kv

    @property
    def n_kept(self) -> int:
        """Cells that an eviction leaves: L H M."""
        return self.n_cell_lists * self.options.budget

    def extend(self, log_beta: np.ndarray) -> None:
        """The next tokens, in ubatches of n_ubatch: the log beta of their cells, [L, t, H] float32."""
        for start in range(0, log_beta.shape[1], self.options.n_ubatch):
            ubatch = log_beta[:, start : start + self.options.n_ubatch]
            self.add(self.next_pos + np.arange(ubatch.shape[1]), ubatch)

    def add(self, positions: np.ndarray, log_beta: np.ndarray) -> None:
        """One ubatch: `positions` [t] and the log beta of its cells, [L, t, H] float32."""
        n_tokens = len(positions)
        if (not self.hold and self.is_due()) or self.n_cells + self.n_cell_lists * n_tokens > self.n_max:
            self.evict()
        self.released = False
        first = self.n_seen if self.next_pos else int(positions[0])  # what begins later has lost what came before
        layer, token, head = np.indices(log_beta.shape)
        self.layer = np.concatenate([self.layer, layer.ravel()])
        self.head = np.concatenate([self.head, head.ravel()])
        self.pos = np.concatenate([self.pos, np.asarray(positions)[token.ravel()]])
        self.ordinal = np.concatenate([self.ordinal, first + token.ravel()])
        self.log_beta = np.concatenate([self.log_beta, log_beta.ravel()])
        self.n_seen, self.next_pos = first + n_tokens, int(max(positions)) + 1

    def is_due(self) -> bool:
        """Whether an eviction runs before the next ubatch."""
        buffer = 0 if self.released else self.options.buffer
        return self.n_cells >= self.n_kept + max(1, self.n_cell_lists * buffer)

    def set_hold(self, hold: bool) -> None:
        """Hold evictions back, or release them."""
        self.hold, self.released = hold, not hold and (self.hold or self.released)

    def evict(self) -> None:
        """Keep the L H M cells with the highest score; protected cells are above all others.

        Ties go to the newest token, then to the lowest layer, then to the lowest head.
        """
        if self.n_cells <= self.n_kept:
            return
        self._keep(self.select(self.score(self) if self.score else self.policy_scores()))
        self.n_evictions += 1

    def select(self, scores: np.ndarray) -> np.ndarray:
        """Indices of the cells that an eviction with these scores keeps, ascending."""
        protected = self._protected()
        protected |= self._best_of_each_head(protected, scores)
        order = np.lexsort((self.head, self.layer, -self.ordinal, -scores, ~protected))
        kept = [order[self._group()[order] == group][:n] for group, n in self._budgets().items()]
        return np.sort(np.concatenate(kept))

    def _group(self) -> np.ndarray:
        """Number of the cells' competition, [n_cells]: one for the model, for each layer, or for each (layer, head)."""
        groups = {"global": 0 * self.layer, "layer": self.layer, "head": self.layer * self.n_head_kv + self.head}
        return groups[self.options.scope]

    def _budgets(self) -> dict[int, int]:
        """Cells that each competition keeps."""
        n_groups = {"global": 1, "layer": self.n_layer, "head": self.n_cell_lists}[self.options.scope]
        return dict.fromkeys(range(n_groups), self.n_kept // n_groups)

    def policy_scores(self) -> np.ndarray:
        """Scores of the policies that look at ordinals and log betas alone, [n_cells] float32."""
        if self.options.policy == "gate" and self.options.is_static:
            return self.log_beta
        if self.options.policy == "random":
            return random_scores(self.options.seed, self.layer, self.head, self.ordinal)
        return SCORES[self.options.policy](self.n_seen, self.ordinal, self.log_beta, self.options.lookahead)

    def _protected(self) -> np.ndarray:
        """Sinks, the recent window and pinned ranges, [n_cells] bool."""
        n_recent = max(self.options.n_recent, self._window())
        protected = (self.ordinal < self.options.n_sink) | (self.ordinal >= self.n_seen - n_recent)
        for p0, p1 in self.pinned:
            protected |= (self.pos >= p0) & (self.pos < p1)
        return protected

    def _window(self) -> int:
        """The window of the gates, at most half of what sinks and pins leave."""
        left = max(0, self.options.budget - self.options.n_sink - self.n_tokens_in(self.pinned))
        return min(self.options.window, left // 2) if self.options.policy == "gate" else 0

    def n_tokens_in(self, pins: list[Range]) -> int:
        """Tokens that pins keep: of each position those in a stream, or one to come."""
        pinned = set().union(*(range(*pin) for pin in pins))
        held = np.isin(self.pos, list(pinned))
        n_more = 0
        for stream in np.unique(self.layer * self.n_head_kv + self.head):
            pos = self.pos[held & (self.layer * self.n_head_kv + self.head == stream)]
            n_more = max(n_more, len(pos) - len(set(pos)))
        return len(pinned) + n_more

    def _best_of_each_head(self, protected: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """The min_per_head cells that each (layer, head) keeps in any case, [n_cells] bool."""
        best = np.zeros(self.n_cells, bool)
        for il in range(self.n_layer):
            for head in range(self.n_head_kv):
                cells = np.flatnonzero((self.layer == il) & (self.head == head))
                order = np.lexsort((-self.ordinal[cells], -scores[cells], ~protected[cells]))
                best[cells[order[: self.options.min_per_head]]] = True
        return best

    def remove(self, p0: int, p1: int) -> None:
        """Remove positions [p0, p1); the tokens seen go back when the end goes, which came after the last eviction."""
        stays = (self.pos < p0) | (self.pos >= p1)
        if p0 < self.next_pos <= p1:
            self.n_seen = int(self.ordinal[~stays].min(initial=self.n_seen)) if p0 else 0
            self.next_pos = p0
        self._keep(np.flatnonzero(stays))

    def _keep(self, cells: np.ndarray) -> None:
        self.layer, self.head = self.layer[cells], self.head[cells]
        self.pos, self.ordinal, self.log_beta = self.pos[cells], self.ordinal[cells], self.log_beta[cells]

    def cell_list(self, il: int, head: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions and log betas of one (layer, head), in order of the tokens."""
        pos, _, log_beta = self.cells(il, head)
        return pos, log_beta

    def cells(self, il: int, head: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions, ordinals and log betas of one (layer, head), in order of the tokens."""
        cells = np.flatnonzero((self.layer == il) & (self.head == head))
        cells = cells[np.argsort(self.ordinal[cells])]
        return self.pos[cells], self.ordinal[cells], self.log_beta[cells]
