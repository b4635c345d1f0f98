"""Evaluating and generating over a cache that evicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bindings import llama_cpp, retain_h
from ..bindings.interrupt import stoppable
from ..errors import RetainError, UsageError
from ..options.retention_options import RetentionOptions
from ..retention.retention import SEQUENCE, Retention
from ..vision.layout import Layout
from ..vision.picture import PictureBook
from .exact_draft import ExactDraft
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
    _n_evictions: int = 0  # those that the history has taken in
    _n_evaluations: int = 0
    _n_drafts: int = 0  # tokens at the end of the next evaluation that may be taken back
    _own_draft: llama_cpp.llama_speculative.LlamaDraftModel | None = None

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

    @property
    def draft_model(self) -> ExactDraft | None:
        """What drafts tokens for speculative decoding, as `model`, cut where the cache allows."""
        return None if self._own_draft is None else ExactDraft(self._own_draft, self)

    @draft_model.setter
    def draft_model(self, model: llama_cpp.llama_speculative.LlamaDraftModel | None) -> None:
        if model is not None and not self._logits_all:
            raise UsageError(
                "a draft model is given when the model is loaded, as draft_model=, since logits are kept for it"
            )
        self._own_draft = model.model if isinstance(model, ExactDraft) else model

    def _draft_limit(self) -> int:
        """The most tokens to evaluate next, those that are certain included, where some may be taken back."""
        self._take_back()
        return min(self.retention._draft_limit(), self._n_ubatch)

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
            budget=stats.residents if self.retention._evicts else self._n_ctx,
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

        To read all but the last token of a prompt first computes the last one on its own, as `generate` does: to the
        bit the same when it is read again.

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
        """Whether an interrupted evaluation left cells that cannot be taken back exactly, or, as in recurrent layers, none."""
        last = self._last_position()
        return last >= self._position < self.retention._rollback_limit() or last < 0 < self.n_tokens

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

        The last token of a prompt is read on its own, so that it has the same logits when it is read again.
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
        yield from self._without_drafts(super().generate(tokens, *args, reset=False, **kwargs), len(tokens))

    def _without_drafts(self, generator: Any, n_new: int) -> Iterator[int]:
        """The tokens of a generator that first evaluates n_new tokens; drafts that it has not got to leave with it."""
        n_text, evaluation, sent = self.n_tokens + n_new, self._n_evaluations, None
        try:
            while True:
                try:
                    token = generator.send(sent)
                except StopIteration:
                    return
                finally:
                    evaluation = self._n_evaluations
                sent = yield token
                n_text += 1 + len(sent or ())
        finally:
            generator.close()
            if self.n_tokens > n_text and evaluation == self._n_evaluations:
                self.n_tokens, self._requires_eval = n_text, True
                self._take_back()

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

    def _take_back(self) -> None:
        """Take out of the cache what comes after the text."""
        if self._last_position() >= self._position:
            self._ctx.kv_cache_seq_rm(SEQUENCE, self._position, -1)

    def _eval(self, tokens: list[int], next_cut: Callable[[int], int]) -> None:
        """Evaluate tokens after those in the cache; `next_cut` says where the ubatch of a token ends."""
        self._n_evaluations += 1
        n_drafts, self._n_drafts = self._n_drafts, 0
        if not tokens:
            return
        if self._has_leftovers():
            tokens = self.input_ids[: self.n_tokens].tolist() + tokens
            self.reset()
        self._check_room(self.n_tokens + len(tokens))
        layout = self._layout.extended(self.n_tokens, tokens, self.pictures)
        self.check_pictures(layout)
        self._layout = layout
        self._take_back()
        self._note_evictions()
        self._history.cut(self.n_tokens)
        self.retention._apply_pins(restarted=self.n_tokens == 0)
        with ExitStack() as stack:
            if len(tokens) > 1:
                stack.enter_context(stoppable(self.ctx))
                if self._holds_evictions and n_drafts == 0:
                    stack.enter_context(self._held())
            self._eval_ubatches(tokens, next_cut, self.on_prompt if len(tokens) > 1 and n_drafts == 0 else None)
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

    def _eval_ubatches(
        self, tokens: list[int], next_cut: Callable[[int], int], report: Callable[[int, int], None] | None
    ) -> None:
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
            self._note_evictions(rows.start)
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

    def _note_evictions(self, start: int | None = None) -> None:
        """Take an eviction into the history that ran since the last call: before the ubatch at `start`, or outside of one."""
        before, self._n_evictions = self._n_evictions, self.retention.stats().evictions
        if self._n_evictions == before:
            return
        if start is None:
            self._history.evictions.append(Eviction(self.n_tokens, None))
            return
        # a scorer that failed left the choice to the policy
        steering = self.retention._steering if self.retention._scorer_error is None else None
        self._history.evictions.append(Eviction(start, steering))

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold evictions back; after the block one runs when the next token comes."""
        self.retention._hold(True)
        try:
            yield
        finally:
            self.retention._hold(False)
