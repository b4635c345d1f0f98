"""What stands between a caller's mistakes and native code, which would end the process over them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from ..bindings import llama_cpp
from ..bindings.sampling import Grammar, Processors, logit_bias_processor
from ..bindings.tokenizer import check_tokens
from ..bindings.usage import Usage, in_step, in_turn
from ..errors import RetainError, UsageError
from ..vision.picture import Picture
from .cached_llama import CachedLlama
from .token_limit import TokenLimit

_COMPLETION = inspect.signature(llama_cpp.Llama.create_completion)


class GuardedLlama(CachedLlama):
    """A `CachedLlama` that may be used in any order, from any thread, and with any arguments.

    - After `close` everything raises RetainError, also what was taken from the model before: its tokenizer, an open
      stream.
    - Threads wait for each other: a completion runs to its end before the next one begins, and an open stream gives way
      between its tokens.
    - A text that is being generated ends with RetainError when something else was read meanwhile.
    - What a callback raises (logits processor, stopping criterion, `on_prompt`, eviction hook) comes out of the call.
    """

    _usage: Usage
    _sampler: Any
    _processors: Processors | None = None
    _n_outputs = 0  # rows of logits that the last evaluation left

    def __new__(cls, *_: Any, **__: Any) -> GuardedLlama:
        self = super().__new__(cls)
        # the finalizer needs these, however early the rest fails
        self._usage, self._stack, self._retention = Usage(), ExitStack(), None
        return self

    @property
    def on_prompt(self) -> Callable[[int, int], None] | None:
        """Called with (tokens read, tokens to read) while more than one token is evaluated."""
        return self._on_prompt

    @on_prompt.setter
    def on_prompt(self, report: Callable[[int, int], None] | None) -> None:
        self._on_prompt = report and self._usage.guarded(report)

    # evaluating

    @in_turn
    @in_step
    def reset(self) -> None:
        """Forget the text: the next evaluation starts at position 0. Pins stay."""
        self._usage.changes += 1
        super().reset()

    @in_turn
    @in_step
    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens after those in the cache.

        Raises
        ------
        UsageError : they are no tokens of this model.
        RetainError : the context is full, or the cache is (policy "none").
        """
        tokens = list(tokens)
        self._check(tokens)
        super().eval(tokens)

    def _check(self, tokens: Sequence[int]) -> tuple[Picture, ...]:
        """The pictures of a text; raises UsageError for what is neither a token of this model nor a picture."""
        try:
            pictures = self.pictures.of(tokens) if min(tokens, default=0) < 0 else ()
        except (RetainError, TypeError, ValueError, OverflowError):
            pictures = ()
        known = {token for picture in pictures for token in picture.tokens}
        check_tokens([token for token in tokens if token not in known] if known else tokens, self._n_vocab)
        return pictures

    def _eval(self, *args: Any) -> None:
        self._usage.changes += 1
        try:
            super()._eval(*args)
        except RetainError:
            self.retention._raise_scorer_error()
            raise

    def _decode(self, tokens: list[int]) -> None:
        if len(tokens) > 1:
            self._usage.give_way()
        self._n_outputs = 0
        super()._decode(tokens)
        self._n_outputs = len(tokens) if self._logits_all else 1

    @in_turn
    @in_step
    def read(self, *args: Any, **kwargs: Any) -> None:
        return super().read(*args, **kwargs)

    @in_turn
    @in_step
    def cached_prefix(self, *args: Any, **kwargs: Any) -> int:
        return super().cached_prefix(*args, **kwargs)

    # sampling

    @in_turn
    @in_step
    def sample(self, *args: Any, idx: int | None = None, **kwargs: Any) -> int:
        """Draw a token, as the parent does.

        Raises
        ------
        UsageError : nothing was evaluated, or no logits were kept for the position `idx`.
        """
        row = -1 if idx is None else idx - self.n_tokens
        if self._requires_eval or not -self._n_outputs <= row < 0:
            raise UsageError("there are no logits to draw a token from; evaluate the tokens before it first")
        token = super().sample(*args, idx=idx, **kwargs)
        if self._processors is not None:
            self._processors.accept(token)
        return token

    def _init_sampler(self, *args: Any, logits_processor: Any = None, grammar: Any = None, **kwargs: Any) -> Any:
        parsed = None if grammar is None else Grammar(self._model.vocab, grammar)
        self._processors = None
        if logits_processor is not None:
            self._processors = Processors(logits_processor, self._usage, parsed)
            logits_processor, grammar = [self._processors], None
        return super()._init_sampler(*args, logits_processor=logits_processor, grammar=grammar, **kwargs)

    def generate(
        self, tokens: Sequence[int], *args: Any, stopping_criteria: Any = None, **kwargs: Any
    ) -> Iterator[int]:
        """Generate tokens from a prompt, as the parent does.

        Raises
        ------
        UsageError : there is no prompt, or it has what is no token of this model.
        RetainError : another text was read since the last token.
        """
        tokens = list(tokens)
        pictures = self._check(tokens)
        if not tokens and (kwargs.get("reset", True) or not self.n_tokens):
            raise UsageError("the prompt is empty")
        limit = stopping_criteria if isinstance(stopping_criteria, TokenLimit) else None
        if limit is not None:
            limit.begin(self._n_ctx - len(tokens))
        if stopping_criteria is not None:
            stopping_criteria = self._usage.guarded(stopping_criteria)
        generator: Any = super().generate(tokens, *args, stopping_criteria=stopping_criteria, **kwargs)
        sampler, changes, sent = None, None, None
        try:
            while True:
                with self._usage.turn(), self._usage.step():
                    if changes not in (None, self._usage.changes):
                        raise RetainError(
                            "this text cannot go on: the model has read another one since its last token;"
                            " finish a stream before the next one, or use a model for each"
                        )
                    if limit is not None and not limit.take():
                        return
                    try:
                        token = generator.send(sent)
                    except StopIteration:
                        return
                    finally:
                        sampler, changes = self._sampler, self._usage.changes
                sent = yield token
        finally:
            del pictures  # which nobody else may have held
            generator.close()
            if self._sampler is sampler:  # the parent's `sample` would take it for later calls, whatever they ask for
                self._sampler = None

    # completions

    @in_turn
    def create_completion(
        self,
        prompt: str | Sequence[int],
        *args: Any,
        logits_processor: Any = None,
        logit_bias: Mapping[Any, float] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Complete a prompt, as the parent does."""
        pictures: tuple[Picture, ...] = ()
        if not isinstance(prompt, str):
            prompt = list(prompt)
            pictures = self._check(prompt)
        if logit_bias is not None:  # the parent drops both when it gets both
            bias = logit_bias_processor(logit_bias, self._n_vocab)
            logits_processor = llama_cpp.LogitsProcessorList([*(logits_processor or ()), bias])
        given = _COMPLETION.bind_partial(self, prompt, *args, **kwargs).arguments
        max_tokens = given.get("max_tokens", _COMPLETION.parameters["max_tokens"].default)
        limit = TokenLimit(max_tokens, given.get("stopping_criteria"))
        given |= {"stopping_criteria": limit, "logits_processor": logits_processor}
        given.pop("self")
        result = super().create_completion(**given)
        return limit.mark(result) if isinstance(result, dict) else self._in_turns(result, limit, pictures)

    def _in_turns(
        self, stream: Generator[Any, None, None], limit: TokenLimit, pictures: tuple[Picture, ...]
    ) -> Iterator[Any]:
        """The chunks of a stream, each made in a turn of its own; the pictures of its prompt are held until it ends."""
        try:
            while True:
                with self._usage.turn():
                    try:
                        chunk = next(stream)
                    except StopIteration:
                        return
                yield limit.mark(chunk)
        finally:
            del pictures
            stream.close()

    # the end

    def close(self) -> None:
        """Free the model and its cache when no call runs. Every later use raises RetainError."""
        self._usage.end(self._free)

    def _free(self) -> None:
        if self._retention is not None:
            self._retention._close()
        self._sampler = None
        native = [owner for name in ("_model", "_ctx", "_batch") if (owner := vars(self).get(name)) is not None]
        super().close()
        for owner in native:
            vars(owner).clear()
            owner.__class__ = _Closed


class _Closed:
    """What the bindings' objects become, so that whoever holds them gets an error and no dead pointer."""

    def __getattr__(self, _name: str) -> Any:
        raise RetainError("the model is closed")


def with_followable_schemas(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a chat with every JSON schema in the form that the bindings follow; others they pass over.

    Raises
    ------
    UsageError : a response format that is not known, or a schema that has no grammar, for which they take any JSON.
    """
    found = dict(settings)
    form = found.get("response_format") or {"type": "text"}
    kind = form.get("type")
    if kind == "json_schema":  # as in OpenAI's interface
        found["response_format"] = form = {"type": "json_object", "schema": form["json_schema"]["schema"]}
    elif kind not in ("text", "json_object"):
        raise UsageError(f"the response format {kind!r} is not one of text, json_object, json_schema")
    if form.get("schema") is not None:
        _check_schema("response_format", form["schema"])
    for tool in found.get("tools") or ():
        _check_schema(f"the tool {tool['function']['name']!r}", tool["function"].get("parameters", {}))
    return found


def _check_schema(where: str, schema: Any) -> None:
    try:
        llama_cpp.llama_grammar.json_schema_to_gbnf(json.dumps(schema))
    except Exception as error:  # the converter's own, of many kinds
        raise UsageError(f"the JSON schema of {where} cannot be followed: {type(error).__name__}: {error}") from None
