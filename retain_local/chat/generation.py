"""Generating one text: streaming in whole characters, stop strings, times."""

from __future__ import annotations

import codecs
import random
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..errors import ContextFullError, RetainError
from .sampling import MAX_SEED, Sampling

if TYPE_CHECKING:
    from ..llama import Llama


class Generation:
    """One text that a model writes after a prompt: iterate over it for its pieces, once.

    An exception, Ctrl-C among them, leaves what was written so far in the attributes.

    Parameters
    ----------
    llm : Llama
    prompt : tokens; what of them the cache holds already is not read again.
    sampling : Sampling
    stop : strings that end the text and are not part of it.
    continues : the prompt goes on with the conversation in the cache; see `Llama.cached_prefix`.

    Attributes
    ----------
    text : str
        What was written so far.
    tokens : list of int
        Its tokens, an end token not included.
    n_prompt : int
        Tokens of the prompt that are read.
    finish_reason : str or None
        "stop" (the model ended the text, or a stop string did), "length" (max_tokens or the context), None (not over).
    stopped_by : str
        The stop string that ended the text, or "".
    prompt_seconds, generation_seconds : float
        Until the first token, and from there.
    """

    def __init__(
        self,
        llm: Llama,
        prompt: Sequence[int],
        sampling: Sampling,
        stop: Sequence[str] = (),
        continues: bool = False,
    ) -> None:
        if not prompt:
            raise RetainError("the prompt is empty")
        room = llm.n_ctx() - len(prompt)
        if room < 1:
            raise ContextFullError(
                f"the text is {len(prompt)} tokens long and the context {llm.n_ctx()}; use a longer context (--ctx)",
                len(prompt),
            )
        self.text = ""
        self.tokens: list[int] = []
        self.n_prompt = len(prompt) - llm.cached_prefix(prompt, continues)
        self.finish_reason: str | None = None
        self.stopped_by = ""
        self.prompt_seconds = 0.0
        self.generation_seconds = 0.0
        self._llm, self._prompt, self._sampling, self._continues = llm, list(prompt), sampling, continues
        self._stop = tuple(text for text in stop if text)
        self._limit = min(room, sampling.max_tokens or room)

    @property
    def prompt_rate(self) -> float:
        """Tokens of the prompt read each second."""
        return self.n_prompt / self.prompt_seconds if self.prompt_seconds else 0.0

    @property
    def generation_rate(self) -> float:
        """Tokens written each second, the first not counted: it comes with the prompt."""
        return (len(self.tokens) - 1) / self.generation_seconds if self.generation_seconds else 0.0

    def __iter__(self) -> Iterator[str]:
        seed = self._sampling.seed
        self._llm.set_seed(random.randint(0, MAX_SEED) if seed is None else seed)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        held = ""  # the end of the text that may be the beginning of a stop string
        for token in self._timed_tokens():
            held += decoder.decode(self._llm.detokenize([token]))
            end, self.stopped_by = min(
                ((held.find(stop), stop) for stop in self._stop if stop in held), default=(-1, "")
            )
            if end >= 0:
                self.finish_reason = "stop"
                held = held[:end]
                break
            keep = self._stop_prefix(held)
            piece, held = held[: len(held) - keep], held[len(held) - keep :]
            if piece:
                self.text += piece
                yield piece
        else:
            held += decoder.decode(b"", final=True)
        if held:
            self.text += held
            yield held

    def _timed_tokens(self) -> Iterator[int]:
        start = time.perf_counter()
        first = None
        try:
            options = self._sampling.arguments()
            for token in self._llm.generate(self._prompt, continues=self._continues, **options):
                if first is None:
                    first = time.perf_counter()
                    self.prompt_seconds = first - start
                if self._llm.is_end(token):
                    self.finish_reason = "stop"
                    return
                self.tokens.append(token)
                self.generation_seconds = time.perf_counter() - first
                yield token
                if len(self.tokens) >= self._limit:
                    self.finish_reason = "length"
                    return
        finally:
            if first is None:
                self.prompt_seconds = time.perf_counter() - start

    def _stop_prefix(self, text: str) -> int:
        """Length of the longest end of a text that a stop string begins with."""
        lengths = (n for stop in self._stop for n in range(len(stop) - 1, 0, -1) if text.endswith(stop[:n]))
        return max(lengths, default=0)
