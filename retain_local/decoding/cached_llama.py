"""Evaluating and generating over a cache that evicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bindings import llama_cpp, retain_h
from ..bindings.interrupt import stoppable
from ..errors import RetainError
from ..options import RetentionOptions
from ..retention import SEQUENCE, Retention
from ..vision.layout import Layout
from ..vision.picture import PictureBook
from .history import CacheHistory, Eviction, ReadingPlan
from .picture_batch import PictureBatch


class CachedLlama(llama_cpp.Llama):
    """What `Llama` does with its cache: the parent's evaluation and generation, made exact under eviction.

    A cache that evicted can be cut back only to where it stood at its last eviction. The parent cuts back freely, and
    reads what follows in other pieces than a whole prompt; here a prompt leaves the same cells, and so the same text,
    whatever was read before it (see `history`).

    Pictures are tokens below 0 (see `vision.picture`). All counts here are of tokens; `_layout` tells the positions that
    they have in the cache.

    Attributes
    ----------
    pictures : PictureBook
        Those that may stand in a text.
    """

    options: RetentionOptions
    input_ids: npt.NDArray[np.intc]
    scores: npt.NDArray[np.single]
    on_prompt: Callable[[int, int], None] | None
    pictures: PictureBook
    _layout: Layout  # of the tokens in the cache; it holds their pictures
    _retention: Retention | None
    _history: CacheHistory
    _n_evictions: int  # those that the history has taken in

    @property
    def retention(self) -> Retention:
        """What the cache keeps: statistics, positions, log β, pins, budget, policy, scorer."""
        if self._retention is None:
            raise RetainError("a model loaded with vocab_only has no cache")
        return self._retention

    @property
    def layout(self) -> Layout:
        """The pictures of the text in the cache."""
        return self._layout.cut(self.n_tokens)

    def positions(self, tokens: Sequence[int], start: int, stop: int) -> tuple[int, int]:
        """The positions [start, stop) that tokens [start, stop) of a text have in the cache, for pins.

        Raises
        ------
        RetainError : the text holds a picture that nobody keeps.
        """
        layout = Layout.of(tokens, self.pictures)
        return layout.position(start), layout.position(stop)

    def reset(self) -> None:
        """Forget the text: the next evaluation starts at position 0. Pins stay."""
        super().reset()
        if self._retention is not None:
            self._ctx.kv_cache_seq_rm(SEQUENCE, 0, -1)
            self._note_evictions()
            self._history.cut(0)

    def cached_prefix(self, tokens: Sequence[int], continues: bool = False) -> int:
        """How many tokens at the start of a prompt the cache holds, so that `generate` need not read them again.

        They are those whose cells are what reading the prompt from its start would leave: text that was read before
        never changes what is made of a prompt. The last token is read again in any case, for its logits.

        Parameters
        ----------
        continues : the prompt goes on with the conversation in the cache, or with its beginning, and takes the cells as
            they are, even if evictions fell elsewhere than in a reading from the start.
        """
        layout = Layout.of(tokens, self.pictures)
        n_first = layout.place_before(len(tokens) - 1)
        n_read = len(tokens) if self._holds_evictions else n_first
        return self._reusable(tokens[:n_first], n_read, layout, continues)

    def _reusable(self, tokens: Sequence[int], n_read: int, layout: Layout, continues: bool) -> int:
        """How many of these tokens need not be read again where the first n_read tokens of a prompt are to be read.

        Parameters
        ----------
        layout : of the prompt.
        """
        n = layout.place_before(self._common_prefix(tokens))
        if not continues:
            self._note_evictions()
            self._history.follow(self._plan(layout))
            n = self._history.reusable(n, n_read, self.retention._steering)
        if self._has_leftovers():
            return 0
        return n if n == self.n_tokens or layout.position(n) >= self.retention._rollback_limit() else 0

    def _common_prefix(self, tokens: Sequence[int]) -> int:
        prompt = np.asarray(tokens, np.intc)[: self.n_tokens]
        differs = np.flatnonzero(prompt != self.input_ids[: len(prompt)])
        return int(differs[0]) if len(differs) else len(prompt)

    @property
    def _holds_evictions(self) -> bool:
        return self.options.prefill == "full"

    def _plan(self, layout: Layout) -> ReadingPlan:
        """How a prompt with these pictures is read under the budget and the policy of this moment."""
        stats = self.retention.stats()
        assert self.options.buffer is not None  # resolved
        return ReadingPlan(
            budget=stats.budget if self.retention._evicts else self._n_ctx,
            buffer=self.options.buffer,
            n_ubatch=self._n_ubatch,
            n_most=stats.cells_limit // stats.cell_lists,
            is_held=self._holds_evictions,
            layout=layout,
        )

    @property
    def _n_ubatch(self) -> int:
        return llama_cpp.llama_n_ubatch(self.ctx)

    def read(self, tokens: Sequence[int], continues: bool = False) -> None:
        """Make the cache hold these tokens, reading no more of them than need be; see `cached_prefix`.

        To read all but the last token of a prompt first keeps the cache of that moment within reach: an eviction may
        run at the end of a reading, and the cache cannot be cut back behind it.

        Raises
        ------
        RetainError : as `eval` does.
        """
        layout = Layout.of(tokens, self.pictures)
        self._read(tokens, layout, self._reusable(tokens, len(tokens), layout, continues))

    def _read(self, tokens: Sequence[int], layout: Layout, n_reused: int) -> None:
        """Cut the cache back to the first n_reused of these tokens, and read the rest."""
        self._check_room(len(tokens))
        self.check_pictures(layout)
        if n_reused == 0:
            self.reset()
        self.n_tokens = n_reused
        self._requires_eval = True
        plan = self._plan(layout)
        self._history.follow(plan)
        self._eval(list(tokens[n_reused:]), plan.next_cut)
        self._history.read_to(n_reused, len(tokens))

    def _has_leftovers(self) -> bool:
        """Whether an interrupted evaluation left cells that cannot be taken back exactly."""
        return self._last_position() >= self._position < self.retention._rollback_limit()

    @property
    def _position(self) -> int:
        """The position of the next token."""
        return self._layout.position(self.n_tokens)

    def _last_position(self) -> int:
        """The last position in the cache; -1 when it is empty."""
        return llama_cpp.llama_memory_seq_pos_max(self._ctx.memory, SEQUENCE)

    def generate(
        self, tokens: Sequence[int], *args: Any, reset: bool = True, continues: bool = False, **kwargs: Any
    ) -> Iterator[int]:
        """Generate tokens from a prompt, as the parent does; `continues` as for `cached_prefix`.

        The last token of a prompt is read on its own, so that the cache can be cut back to the moment before it.
        """
        tokens = list(tokens)
        if reset:
            layout = Layout.of(tokens, self.pictures)
            n_reused = self.cached_prefix(tokens, continues)
            if not self._holds_evictions:
                n_first = layout.place_before(len(tokens) - 1)
                self._read(tokens[:n_first], layout, n_reused)
                n_reused = n_first
            self._read(tokens, layout, n_reused)
            tokens = []
        return (yield from super().generate(tokens, *args, reset=False, **kwargs))

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens after those in the cache, in ubatches that are counted from the first of them.

        Raises
        ------
        RetainError : the context is full, or the cache is (policy "none").
        """
        first, n_ubatch = self.n_tokens, self._n_ubatch

        def next_cut(n: int) -> int:
            batch = n - (n - first) % self.n_batch
            return min(n + n_ubatch - (n - batch) % n_ubatch, batch + self.n_batch)

        self._eval(list(tokens), next_cut)

    def _eval(self, tokens: list[int], next_cut: Callable[[int], int]) -> None:
        """Evaluate tokens after those in the cache; `next_cut` says where the ubatch of a token ends."""
        if not tokens:
            return
        if self._has_leftovers():
            tokens = self.input_ids[: self.n_tokens].tolist() + tokens
            self.reset()
        self._check_room(self.n_tokens + len(tokens))
        layout = self._layout.extended(self.n_tokens, tokens, self.pictures)
        self.check_pictures(layout)
        self._layout = layout
        if self._last_position() >= self._position:
            self._ctx.kv_cache_seq_rm(SEQUENCE, self._position, -1)
        self._note_evictions()
        self._history.cut(self.n_tokens)
        self.retention._apply_pins(restarted=self.n_tokens == 0)
        with ExitStack() as stack:
            if len(tokens) > 1:
                stack.enter_context(stoppable(self.ctx))
                if self._holds_evictions:
                    stack.enter_context(self._held())
            self._eval_ubatches(tokens, next_cut)
        self.retention._raise_scorer_error()

    def _check_room(self, n_tokens: int) -> None:
        if n_tokens > self._n_ctx:
            raise RetainError(f"the context of {self._n_ctx} tokens is full; use a longer context, or start anew")

    def check_pictures(self, layout: Layout) -> None:
        """Raise RetainError for a picture that is to be computed at once and is larger than a ubatch.

        llama.cpp ends the process over it.
        """
        for one in layout.placed:
            if not one.picture.is_causal and one.picture.n_tokens > self._n_ubatch:
                raise RetainError(
                    f"the picture is {one.picture.n_tokens} tokens, which this model computes at once, and the ubatch"
                    f" {self._n_ubatch}; use a larger one (--ubatch {one.picture.n_tokens}, n_ubatch= in Python)"
                )

    def _eval_ubatches(self, tokens: list[int], next_cut: Callable[[int], int]) -> None:
        report = self.on_prompt if len(tokens) > 1 else None
        first, stop = self.n_tokens, self.n_tokens + len(tokens)
        try:
            while (start := self.n_tokens) < stop:
                if report is not None:
                    report(start - first, len(tokens))
                end = self._layout.next_edge(start, min(next_cut(start), stop))
                self._decode(tokens[start - first : end - first])
        finally:  # part of a picture is no text, and is taken out with what follows
            self.n_tokens = self._layout.place_before(self.n_tokens)
        if report is not None:
            report(len(tokens), len(tokens))

    def _decode(self, tokens: list[int]) -> None:
        """Evaluate one ubatch, and note its tokens and logits. The parent's own clears the sequence, pins and all."""
        batch = self._batch_of(tokens)
        rows = slice(self.n_tokens, self.n_tokens + len(tokens))
        retain_h.clear_error()
        try:
            with batch.attention(self.ctx) if isinstance(batch, PictureBatch) else nullcontext():
                self._ctx.decode(batch)
        except RuntimeError as error:
            raise RetainError(retain_h.error_text() or str(error)) from None
        finally:
            self._note_evictions(rows.start, rows.stop)
        self._history.computed(rows.start, rows.stop)
        self.input_ids[rows] = tokens
        if self._logits_all:
            self.scores[rows] = np.ctypeslib.as_array(self._ctx.get_logits(), (len(tokens), self._n_vocab))
        self.n_tokens = rows.stop
        self._requires_eval = False

    def _batch_of(self, tokens: list[int]) -> Any:
        """The batch of one ubatch, which is text or (part of) a picture."""
        one = self._layout.at(self.n_tokens)
        if one is not None:
            first = self.n_tokens - one.start
            return PictureBatch(one, slice(first, first + len(tokens)), self._logits_all)
        self._batch.set_batch(batch=tokens, n_past=self._position, logits_all=self._logits_all)
        return self._batch

    def _note_evictions(self, start: int | None = None, stop: int | None = None) -> None:
        """Take the evictions into the history that ran since the last call: in the ubatch [start, stop), or outside of one."""
        stats = self.retention.stats()
        n, self._n_evictions = stats.evictions - self._n_evictions, stats.evictions
        if not n:
            return
        if start is None or stop is None:
            self._history.evictions.append(Eviction(self.n_tokens, None))
            return
        # the ubatch that follows an eviction stands in the cache beside what that left
        after = stats.cells_kept <= stats.cell_lists * stats.budget
        places = []
        if n > 1 or not after:
            places.append(start)
        if after:
            places.append(stop)
        # a scorer that failed left the choice to the policy
        steering = self.retention._steering if self.retention._scorer_error is None else None
        self._history.evictions += [Eviction(at, steering) for at in places]

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold evictions back; they run when the block ends."""
        self.retention._hold(True)
        try:
            yield
        finally:
            self.retention._hold(False)
