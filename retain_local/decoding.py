"""Evaluating and generating over a cache that evicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from .bindings import llama_cpp, retain_h
from .bindings.interrupt import stoppable
from .errors import RetainError
from .options import RetentionOptions
from .retention import SEQUENCE, Retention


class CachedLlama(llama_cpp.Llama):
    """What `Llama` does with its cache: the parent's evaluation and generation, made exact under eviction.

    A cache that evicted can be cut back only to where it stood at its last eviction. The parent cuts back freely.
    """

    options: RetentionOptions
    on_prompt: Callable[[int, int], None] | None
    _retention: Retention | None

    @property
    def retention(self) -> Retention:
        """What the cache keeps: statistics, positions, log β, pins, budget, policy, scorer."""
        if self._retention is None:
            raise RetainError("a model loaded with vocab_only has no cache")
        return self._retention

    def reset(self) -> None:
        """Forget the text: the next evaluation starts at position 0. Pins stay."""
        super().reset()
        if self._retention is not None:
            self._ctx.kv_cache_seq_rm(SEQUENCE, 0, -1)

    def cached_prefix(self, tokens: Sequence[int]) -> int:
        """How many tokens at the start of a prompt the cache holds, so that `generate` need not read them again.

        Once cells were evicted the cache can be cut back only so far: a shorter common prefix is worth nothing, and
        the prompt is read from its start.
        """
        n = self._common_prefix(tokens)
        if n == len(tokens) and (n < self.n_tokens or self._requires_eval):
            n -= 1  # the last one is read again for its logits
        return n if self._can_cut_to(n) else 0

    def _common_prefix(self, tokens: Sequence[int]) -> int:
        prompt = np.asarray(tokens, np.intc)[: self.n_tokens]
        differs = np.flatnonzero(prompt != self.input_ids[: len(prompt)])
        return int(differs[0]) if len(differs) else len(prompt)

    def _can_cut_to(self, n: int) -> bool:
        """Whether the cache can be made what it was after n of its tokens."""
        if self._has_leftovers():
            return False
        return n == self.n_tokens or n >= self.retention._rollback_limit()

    def read(self, tokens: Sequence[int]) -> None:
        """Make the cache hold these tokens, reading no more of them than need be.

        To read all but the last token of a prompt first keeps the cache of that moment within reach: an eviction may
        run at the end of a reading, and the cache cannot be cut back behind it.
        """
        n = self._common_prefix(tokens)
        if not self._can_cut_to(n):
            self.reset()
            n = 0
        self.n_tokens = n
        self._requires_eval = True
        self.eval(tokens[n:])

    def _has_leftovers(self) -> bool:
        """Whether an interrupted evaluation left cells that cannot be taken back exactly."""
        return self._last_position() >= self.n_tokens < self.retention._rollback_limit()

    def _last_position(self) -> int:
        """The last position in the cache; -1 when it is empty."""
        return llama_cpp.llama_memory_seq_pos_max(self._ctx.memory, SEQUENCE)

    def generate(self, tokens: Sequence[int], *args: Any, reset: bool = True, **kwargs: Any) -> Iterator[int]:
        """Generate tokens from a prompt, as the parent does; what is reused of the cache is exact under eviction."""
        tokens = list(tokens)
        if reset and self.n_tokens > 0 and not self.cached_prefix(tokens):
            self.reset()
        return (yield from super().generate(tokens, *args, reset=reset, **kwargs))

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens after those in the cache.

        Raises
        ------
        RetainError : the context is full, or the cache is (policy "none").
        """
        tokens = list(tokens)
        if self._has_leftovers():
            tokens = self.input_ids[: self.n_tokens].tolist() + tokens
            self.reset()
        if self.n_tokens + len(tokens) > self._n_ctx:
            raise RetainError(f"the context of {self._n_ctx} tokens is full; use a longer context, or start anew")
        if self._last_position() >= self.n_tokens:
            self._ctx.kv_cache_seq_rm(SEQUENCE, self.n_tokens, -1)
        self.retention._apply_pins(restarted=self.n_tokens == 0)
        with ExitStack() as stack:
            if len(tokens) > 1:
                stack.enter_context(stoppable(self.ctx))
                if self.options.prefill == "full":
                    stack.enter_context(self._held())
            self._eval_batches(tokens)
        self.retention._raise_scorer_error()

    def _eval_batches(self, tokens: list[int]) -> None:
        report = self.on_prompt if len(tokens) > 1 else None
        for start in range(0, len(tokens), self.n_batch):
            if report is not None:
                report(start, len(tokens))
            self._decode(tokens[start : start + self.n_batch])
        if report is not None:
            report(len(tokens), len(tokens))

    def _decode(self, tokens: list[int]) -> None:
        """Evaluate one batch, and note its tokens and logits. The parent's own clears the sequence, pins and all."""
        self._batch.set_batch(batch=tokens, n_past=self.n_tokens, logits_all=self._logits_all)
        retain_h.clear_error()
        try:
            self._ctx.decode(self._batch)
        except RuntimeError as error:
            raise RetainError(retain_h.error_text() or str(error)) from None
        rows = slice(self.n_tokens, self.n_tokens + len(tokens))
        self.input_ids[rows] = tokens
        if self._logits_all:
            self.scores[rows] = np.ctypeslib.as_array(self._ctx.get_logits(), (len(tokens), self._n_vocab))
        self.n_tokens = rows.stop
        self._requires_eval = False

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold evictions back; they run when the block ends."""
        self.retention._hold(True)
        try:
            yield
        finally:
            self.retention._hold(False)
