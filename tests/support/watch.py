"""A session whose evictions are watched and repeated by reference caches, for policies that look at keys and queries.

At each eviction the hook reads the state of the sequence: its cells before the eviction, with their keys as stored.
Queries come from the compute graph. A score is known up to a bound of its rounding error (`policy_scores`), so sets may
differ from those of the exact scores only in cells that the bound cannot tell apart: the scores are then moved within
their bounds in favour of what happened. If any scores within the bounds explain the set, these do; if not, it is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from retain_local.bindings import retain_h
from support.attention_capture import AttentionCapture
from support.llama_session import Model
from support.policy_scores import Scores, keydiff_scores, knorm_scores, snapkv_scores
from support.reference import Cache, Options
from support.retained import RetainedSession, assert_same_cells, retain_fields
from support.sequence_state import SavedStream, read_sequence
from support.tiny_models import TinyModel

N_QUERIES = 32  # that an eviction looks at
N_HELD = 2 * N_QUERIES  # that are held, so that as many tokens can be taken back
KEY_POLICIES = ("knorm", "keydiff", "snapkv")
SCALES_Q = ("gemma", "phi3")  # architectures that scale q before attention, which then does not


@dataclass
class Eviction:
    """What an eviction had before it: streams by (layer, head), and the last queries: their tokens' ordinals, and where they were captured."""

    streams: dict[tuple[int, int], SavedStream]
    query_ordinal: list[int]
    query_tokens: list[int]


class Watch:
    """A session and one reference cache per sequence.

    Parameters
    ----------
    model : of `shape`.
    options : of the session and of every cache.
    cell_type, n_seq_max, context : as for `Session`.
    retain : further `retain_params` fields.
    """

    def __init__(
        self,
        model: Model,
        shape: TinyModel,
        options: Options,
        cell_type: str = "f16",
        n_seq_max: int = 1,
        retain: dict[str, Any] | None = None,
        **context: Any,
    ) -> None:
        self.shape, self.cell_type, self.options = shape, cell_type, options
        self.capture = AttentionCapture(shape)
        self.session = RetainedSession(
            model,
            {**retain_fields(options), **(retain or {})},
            capture=self.capture,
            cell_type=cell_type,
            n_seq_max=n_seq_max,
            n_ubatch=options.n_ubatch,
            **{"n_ctx": 1024, "n_batch": 64, **context},
        )
        self.session.set_callback(self._see)
        self.caches = [Cache(shape.n_layer, shape.n_head_kv, options) for _ in range(n_seq_max)]
        self.evictions: list[list[Eviction]] = [[] for _ in range(n_seq_max)]
        # (position, ordinal, index of the token) of the queries that the policy may look at
        self.queries: list[list[tuple[int, int, int]]] = [[] for _ in range(n_seq_max)]
        self.pending: list[tuple[int, int, int]] = []  # position, ordinal, sequence of rows not seen yet in attention
        self.n_tokens = 0
        self.n_evictions = self.n_near_ties = 0
        for seq_id, cache in enumerate(self.caches):
            cache.score = lambda cache, seq_id=seq_id: self._score(seq_id, cache)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *error: object) -> None:
        self.session.close()
        if error[0] is None:
            assert self.n_near_ties <= 1 + self.n_evictions // 50

    def decode(self, tokens: list[int], seq_id: int = 0) -> np.ndarray:
        """Append tokens, at most one batch of them, to a sequence, and compare the kept cells; returns the logits."""
        start = self.caches[seq_id].next_pos
        return self.decode_rows([(token, start + i, seq_id) for i, token in enumerate(tokens)])

    def decode_rows(self, rows: list[tuple[int, int, int]]) -> np.ndarray:
        """Decode one batch of (token, position, sequence), and compare the kept cells; returns the logits."""
        for i, (_, pos, seq_id) in enumerate(rows):
            before = sum(seq == seq_id for _, _, seq in rows[:i])
            self.pending.append((pos, self.caches[seq_id].n_seen + before, seq_id))
        logits = self.session.decode_rows(rows)
        self._log_queries()
        log_beta = np.zeros((self.shape.n_layer, len(rows), self.shape.n_head_kv), np.float32)
        if self.capture.values:
            log_beta = self.capture.take("retention_log_beta", self.shape.n_layer)
        for start in range(0, len(rows), self.options.n_ubatch):
            ubatch = range(start, min(start + self.options.n_ubatch, len(rows)))
            for seq_id in sorted({rows[i][2] for i in ubatch}):
                own = [i for i in ubatch if rows[i][2] == seq_id]
                self.caches[seq_id].add(np.array([rows[i][1] for i in own]), log_beta[:, own])
        self.compare()
        return logits

    def compare(self) -> None:
        """Every sequence holds what its cache holds, and no eviction is unexplained."""
        for seq_id, cache in enumerate(self.caches):
            assert not self.evictions[seq_id]
            assert_same_cells(self.session, cache, seq_id)

    def set_policy(self, policy: str) -> None:
        retain_h.check(retain_h.set_policy(self.session.handle, policy.encode()))
        for seq_id, cache in enumerate(self.caches):
            cache.options = replace(cache.options, policy=policy)
            if policy != "snapkv":
                self.queries[seq_id].clear()

    def set_budget(self, budget: int, seq_id: int = 0) -> None:
        self.session.set_budget(budget, seq_id)
        cache = self.caches[seq_id]
        cache.options = replace(cache.options, budget=budget)
        cache.evict()
        self.compare()

    def pin(self, p0: int, p1: int, seq_id: int = 0) -> None:
        self.session.pin(p0, p1, seq_id)
        self.caches[seq_id].pinned.append((p0, p1))

    def remove(self, p0: int, p1: int, seq_id: int = 0) -> None:
        """Remove positions [p0, p1) of a sequence, or change nothing where that would cut it back too far."""
        next_pos, limit = self.caches[seq_id].next_pos, self.session.rollback_limit(seq_id)
        refused = 0 < p0 < next_pos <= p1 and p0 < limit
        assert self.session.try_remove(p0, p1, seq_id) != refused
        if refused:
            self.compare()
            return
        self.caches[seq_id].remove(p0, p1)
        self.queries[seq_id] = [query for query in self.queries[seq_id] if not p0 <= query[0] < p1]
        self.compare()

    def copy(self, source: int, target: int) -> None:
        """Copy a sequence over another one, which keeps its budget."""
        budget = self.caches[target].options.budget
        self.session.copy(source, target)
        self._take_over(source, target)
        if budget < self.caches[target].options.budget:
            self.caches[target].options = replace(self.caches[target].options, budget=budget)
            self.caches[target].evict()
        self.caches[target].options = replace(self.caches[target].options, budget=budget)
        self.compare()

    def save_and_restore(self, source: int, target: int) -> None:
        """Put the saved state of a sequence in place of another one, budget included."""
        assert self.session.restore(self.session.state(source), target)
        self._take_over(source, target)
        self.compare()

    def _take_over(self, source: int, target: int) -> None:
        cache = self.caches[source]
        self.caches[target] = replace(cache, pinned=list(cache.pinned), score=self.caches[target].score)
        self.caches[target].n_max = cache.n_max
        self.queries[target] = list(self.queries[source])

    # what an eviction sees

    def _log_queries(self) -> None:
        """Take in the rows whose attention was computed."""
        n_new = self.capture.n_tokens - self.n_tokens
        new, self.pending = self.pending[:n_new], self.pending[n_new:]
        for pos, ordinal, seq_id in new:
            if self.caches[seq_id].options.policy == "snapkv":
                self.queries[seq_id] = [*self.queries[seq_id], (pos, ordinal, self.n_tokens)][-N_HELD:]
            self.n_tokens += 1

    def _see(self, seq_id, n_seen, layer, head, pos, log_beta, age) -> None:
        self._log_queries()
        saved = read_sequence(self.session.state(seq_id), self.shape, self.cell_type)
        assert saved.query_ordinal == [ordinal for _, ordinal, _ in self.queries[seq_id]]
        window = self.queries[seq_id][-N_QUERIES:]
        for (il, h), stream in saved.streams.items():
            np.testing.assert_array_equal(np.sort(pos[(layer == il) & (head == h)]), stream.pos)
        self.evictions[seq_id].append(
            Eviction(saved.streams, [ordinal for _, ordinal, _ in window], [i for _, _, i in window])
        )

    # what the reference makes of it

    def _score(self, seq_id: int, cache: Cache) -> np.ndarray:
        """Scores for the cells of a cache, as near to the exact ones as the set that the library kept allows."""
        eviction = self.evictions[seq_id].pop(0)
        self.n_evictions += 1
        if cache.options.policy not in KEY_POLICIES:
            return cache.policy_scores()
        scores, error, kept = (np.zeros(cache.n_cells) for _ in range(3))
        for (il, head), stream in eviction.streams.items():
            cells = np.flatnonzero((cache.layer == il) & (cache.head == head))
            cells = cells[np.argsort(cache.ordinal[cells])]
            np.testing.assert_array_equal(cache.ordinal[cells], stream.ordinal)
            scores[cells], error[cells] = self._score_stream(cache.options.policy, eviction, il, head, stream)
            kept[cells] = np.isin(stream.ordinal, self._after(seq_id, il, head))
        rounded = scores.astype(np.float32)  # the same token's keys have one norm in layer 0, up to rounding
        if np.array_equal(cache.select(rounded), np.flatnonzero(kept)):
            return rounded
        self.n_near_ties += 1
        return scores + np.where(kept, error, -error)

    def _score_stream(self, policy: str, eviction: Eviction, il: int, head: int, stream: SavedStream) -> Scores:
        if policy == "knorm":
            return knorm_scores(stream.keys)
        if policy == "keydiff":
            return keydiff_scores(stream.keys)
        n_group = self.shape.n_head // self.shape.n_head_kv
        all_queries = np.concatenate(
            [np.empty((0, self.shape.n_head, self.shape.head_size)), *self.capture.queries[il]]
        )
        queries = all_queries[eviction.query_tokens, head * n_group : (head + 1) * n_group]
        scale = 1.0 if self.shape.arch in SCALES_Q else self.shape.head_size**-0.5
        scale = self.shape.metadata.get("attention.scale", scale)
        ordinals = np.array(eviction.query_ordinal, int)
        return snapkv_scores(stream.ordinal, stream.keys, ordinals, queries.astype(float) * scale)

    def _after(self, seq_id: int, il: int, head: int) -> np.ndarray:
        """Ordinals that a stream held when next something was seen of it."""
        later = self.evictions[seq_id]
        return later[0].streams[il, head].ordinal if later else self.session.cells(il, head, seq_id)[1]
