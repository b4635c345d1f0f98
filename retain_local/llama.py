"""`Llama`: llama-cpp-python's class on a cache of fixed size."""

from __future__ import annotations

import ctypes
import inspect
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from .bindings import llama_cpp, log, mends, retain_h
from .bindings.context import aborts_as_errors, armed
from .bindings.metadata import model_metadata
from .bindings.tokenizer import SafeTokenizer
from .bindings.usage import in_step, in_turn
from .decoding.guards import GuardedLlama, with_followable_schemas
from .decoding.history import CacheHistory, Eviction
from .decoding.retained_state import RetainedState
from .errors import RetainError, UsageError
from .kv_types import kv_type
from .models.model_file import read_model_file
from .options.archive import AUTO_ARCHIVE
from .options.arguments import check_names, checked_numbers, split
from .options.model_fit import check_vectors, described, uses_gpu, warn_of_context
from .options.model_options import ModelOptions
from .options.retention_options import RetentionOptions
from .options.table import options_of
from .prompts.chat_format import PromptTokenizer
from .prompts.completion import DEFAULT_FORMAT, chat_handlers, complete_chat, complete_pictures, without_templates
from .retention.retention import Retention
from .vision import handlers
from .vision.find import projector_beside, tokens_at_once
from .vision.layout import Layout
from .vision.picture import PictureBook
from .vision.projector import Projector

log.install()
mends.install()
logger = logging.getLogger("retain_local")

_VOCAB_ONLY_CTX = 512


class Llama(GuardedLlama):
    """`llama_cpp.Llama` whose KV cache is kept in a budget.

    Takes every argument of its parent. Their meaning is the parent's, but for

    - `n_ctx`: 0, the context the model was trained for, is the default, since memory does not depend on it. A longer
      one is allowed, with one warning.
    - `type_k`, `type_v`: also names, "f32", "f16", "bf16", "q8_0" or "q4_0". A quantised `type_v` turns flash
      attention on, as llama.cpp demands.
    - `n_batch`: 512 by default, or `n_ubatch` where that is more.
    - `verbose`: False by default.
    - `chat_format`: by default the model's own template, or plain lines that begin with "User:" and "Assistant:" where
      it has none. A template that cannot be used is an error of the chat, not of the model.
    - `embedding` is refused: embeddings have no cache to keep.
    - `draft_model`: a draft ends where the next eviction is due, so that the text is that of decoding token by token.

    Parameters
    ----------
    model_path : a GGUF file.
    budget, buffer, gates, policy and the other fields of `retain_local.options.retention_options.RetentionOptions`.
    n_ctx, n_threads, type_k and the other fields of `retain_local.options.model_options.ModelOptions`.
    on_load : called with the fraction loaded, 0 to 1, while the model is loaded.
    on_prompt : called with (tokens read, tokens to read) while more than one token is evaluated.

    Attributes
    ----------
    retention : Retention
        What the cache keeps.
    options : RetentionOptions
        The retention options as resolved: the budget in cells, the sidecar's path, the policy.
    model_file : ModelFile

    Raises
    ------
    RetainError : the model, the sidecar or an argument cannot be used; the message is one line.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        on_load: Callable[[float], None] | None = None,
        on_prompt: Callable[[int, int], None] | None = None,
        **arguments: Any,
    ) -> None:
        self._metadata: dict[str, str] | None = None  # None: the parent is not done with it
        self._on_load = on_load
        self._load_error: BaseException | None = None
        self.on_prompt = on_prompt
        self.pictures, self._layout = PictureBook(), Layout()
        check_names(arguments, _parameters())
        options, arguments = split(RetentionOptions, arguments)
        model, kwargs = split(ModelOptions, arguments)
        self.control_tokens_in_messages, self._mmproj = model.control_tokens_in_messages, model.mmproj
        types = kv_type(model.type_k), kv_type(model.type_v)
        vocab_only, embedding = bool(kwargs.get("vocab_only")), bool(kwargs.get("embedding"))
        n_ctx, n_batch = model.n_ctx, model.batch_of(options.n_ubatch or 0)
        parent = checked_numbers(kwargs) | {
            "n_ctx": n_ctx,
            "n_batch": n_batch,
            "n_threads": model.n_threads,
            "n_gpu_layers": model.n_gpu_layers,
            "rope_freq_base": model.rope_freq_base,
            "type_k": types[0].ggml,
            "type_v": types[1].ggml,
            "flash_attn": bool(kwargs.get("flash_attn")) or types[1].is_quantized,
            "verbose": model.verbose,
        }
        if vocab_only:
            self.options = options  # without a cache there is nothing to resolve them for
            parent["n_ctx"] = n_ctx or _VOCAB_ONLY_CTX  # such a file is loaded without the context of its training
            with self._usage.step(), self._reported(model_path):
                super().__init__(os.fspath(model_path), **parent)
        else:
            if embedding:
                raise UsageError("embeddings have no cache to keep in a budget; use llama_cpp.Llama for them")
            self.model_file = described(read_model_file(model_path), kwargs.get("kv_overrides"))
            check_vectors(self.model_file, model.n_gpu_layers)
            context = n_ctx or self.model_file.n_ctx_train
            resolve = partial(
                RetentionOptions.resolve,
                model=self.model_file,
                n_ctx=context,
                n_batch=n_batch,
                type_k=types[0],
                type_v=types[1],
                on_host=not uses_gpu(model.n_gpu_layers) or kwargs.get("offload_kqv") is False,
            )
            self.options = resolve(options)
            at_once = min(self._tokens_at_once(), n_batch, context)
            if options.n_ubatch is None and (self.options.n_ubatch or 0) < at_once:
                self.options = resolve(replace(options, n_ubatch=at_once))
            parent["n_ubatch"] = self.options.n_ubatch
            with self._usage.step(), self._reported(model_path), armed(self.options):
                super().__init__(os.fspath(model_path), **parent)
                self._check_adapter()
            self._retention, self._history, self._n_evictions = Retention(self.ctx, self._usage), CacheHistory(), 0
            self._fit_buffers()
            self._usage.n_threads = max(self.n_threads, self.n_threads_batch)
            self._tell(context, options)
            if self._mmproj is not None:
                _ = self.projector  # what is wrong with it is said now
        if kwargs.get("tokenizer") is None:
            self.tokenizer_ = SafeTokenizer(self)
        self._metadata = model_metadata(self._model)
        self._chat_handlers = chat_handlers(self)
        if kwargs.get("chat_format") is None and self.chat_handler is None:
            self.chat_format = DEFAULT_FORMAT

    # loading

    def _tokens_at_once(self) -> int:
        """Tokens of a picture that the model computes at once, so that its ubatch must hold them; 0 where none do."""
        with suppress(RetainError):  # said when a picture is read
            return tokens_at_once(Path(self._mmproj or projector_beside(self.model_file)))
        return 0

    @property
    def model_params(self) -> llama_cpp.llama_model_params:
        """Parameters of the model, as the parent fills them in."""
        return self._model_params

    @model_params.setter
    def model_params(self, params: llama_cpp.llama_model_params) -> None:
        # the parent has no argument for the progress callback, and loads as soon as it has filled the rest in
        if self._on_load is not None:
            self._load_callback = llama_cpp.llama_progress_callback(self._load_progress)
            params.progress_callback = self._load_callback
        self._model_params = params

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the model's file, as text."""
        return without_templates(self._parents_metadata) if self._metadata is None else self._metadata

    @metadata.setter
    def metadata(self, metadata: dict[str, str]) -> None:
        # the parent compiles every template at once, in this process: it is shown none
        self._parents_metadata = metadata

    def _load_progress(self, fraction: float, _user: Any) -> bool:
        try:
            assert self._on_load is not None
            self._on_load(fraction)
            return True
        except BaseException as error:  # Ctrl-C among them: an exception cannot pass through C
            self._load_error = error
            return False

    @contextmanager
    def _reported(self, path: str | os.PathLike[str]) -> Iterator[None]:
        """Turn what goes wrong in the parent's constructor into one RetainError with the native reason."""
        log.forget_errors()
        retain_h.clear_error()
        try:
            with aborts_as_errors():
                yield
        except MemoryError:
            raise RetainError(
                f"{path}: not enough memory for the logits of every token of the context; use a smaller n_ctx"
            ) from None
        except (ValueError, RuntimeError) as error:
            if self._load_error is not None:
                raise self._load_error from None
            reason = retain_h.error_text() or log.first_error() or str(error)
            raise RetainError(f"{os.fspath(path)}: {reason}") from None

    def _check_adapter(self) -> None:
        """Raise RetainError when the LoRA was not loaded: the parent takes a null pointer for an adapter."""
        if self.lora_path and not self._lora_adapter:
            reason = log.first_error() or "llama.cpp gave no reason"
            raise RetainError(f"the LoRA {self.lora_path} cannot be used: {reason}")

    def _fit_buffers(self) -> None:
        """Grow the parent's arrays to the context, which llama.cpp rounds up after the parent has sized them."""
        if len(self.input_ids) < self._n_ctx:
            self.input_ids = np.zeros(self._n_ctx, np.intc)
        if self._logits_all and len(self.scores) < self._n_ctx:
            self.scores = np.empty((self._n_ctx, self._n_vocab), np.single)

    def _tell(self, n_ctx: int, asked: RetentionOptions) -> None:
        warn_of_context(self.model_file, n_ctx)
        has_archive = self.retention.stats().bytes_archive > 0
        if asked.policy == "auto" and self.options.gates is None:
            logger.warning(
                "%s: using the policy 'window', which keeps the first %d and the most recent tokens%s;"
                " retain-local gates calibrate makes gates",
                "without gates" if asked.gates is None else f"no gates at {self.model_file.sidecar_path()}",
                self.options.sinks,
                ", and looks others up in the archive" if has_archive else "",
            )
        elif self.options.gates is not None:
            logger.info("policy '%s', gates from %s", self.options.policy, self.options.gates)
        if self.options.archive and asked.archive != AUTO_ARCHIVE and not has_archive:
            what = "evicted from this cache" if self.options.recall_share else "recalled"
            logger.info("nothing is %s, so there is no archive", what)

    # chat

    @in_turn
    def create_chat_completion(self, messages: Sequence[Mapping[str, Any]], *args: Any, **kwargs: Any) -> Any:
        """Complete a chat, as the parent does, from the prompt that `retain-local chat` would make of it.

        With `pin_system` its system message is never evicted; a `chat_handler` of the caller's own makes its prompts
        itself, and nothing is pinned then. A part of a message that is an `image_url`, with a path, a file:// URL or a
        data URL, is read by the model's projector, or by the bindings' handler for pictures that is the `chat_handler`.

        Raises
        ------
        RetainError : the chat template is not valid, refuses the messages, or takes too much time or memory; a picture
            cannot be read.
        UsageError : a JSON schema that is to be followed has no grammar.
        """
        kwargs = with_followable_schemas(kwargs)
        if isinstance(self.chat_handler, handlers.KINDS):
            return complete_pictures(self, self.chat_handler, messages, args, kwargs)
        if self.chat_handler is not None:
            return super().create_chat_completion(messages, *args, **kwargs)
        return complete_chat(self, messages, args, kwargs)

    @in_turn
    def create_completion(self, prompt: str | Sequence[int], *args: Any, **kwargs: Any) -> Any:
        """Complete a prompt, as the parent does; the system message of an earlier chat is no longer pinned."""
        return self.complete_with_system(prompt, (0, 0), *args, **kwargs)

    @in_turn
    def complete_with_system(
        self, prompt: str | Sequence[int], system: tuple[int, int], *args: Any, **kwargs: Any
    ) -> Any:
        """Complete a prompt whose tokens [start, stop) are a system message: with `pin_system` they are pinned."""
        if self._retention is not None and self.options.pin_system:
            self.retention.pin_system(*(system if isinstance(prompt, str) else self.positions(prompt, *system)))
        return super().create_completion(prompt, *args, **kwargs)

    @cached_property
    def projector(self) -> Projector:
        """What reads pictures for this model, loaded when it is first asked for where none was named.

        Raises
        ------
        RetainError : none is named and none beside the model, or it cannot be used.
        """
        path = projector_beside(self.model_file) if self._mmproj is None else self._mmproj
        with self._usage.step():
            return Projector.open(self, path)

    @cached_property
    def prompt_tokenizer(self) -> PromptTokenizer:
        """The tokenizer of chats."""
        return PromptTokenizer(self)

    def tokenizer(self) -> Any:
        """The tokenizer of this model."""
        return self.tokenizer_

    def is_end(self, token: int) -> bool:
        """Whether a token ends the model's text or its turn."""
        return llama_cpp.llama_vocab_is_eog(self._model.vocab, token)

    # state

    @in_step
    def save_state(self) -> RetainedState:
        """The text so far and the whole cache, for `load_state`."""
        data = (ctypes.c_uint8 * llama_cpp.llama_state_get_size(self.ctx))()
        size = llama_cpp.llama_state_get_data(self.ctx, data, len(data))
        if not size:
            raise RetainError(f"the state cannot be saved: {retain_h.error_text() or 'llama.cpp gave no reason'}")
        return RetainedState(
            pins=self.retention.own_pins,
            system_pin=self.retention.system_pin,
            history=self._history.copy(),
            pictures=self.layout.pictures,
            # without logits_all the rows are never filled
            scores=self._scores.copy() if self._logits_all else np.empty((0, self._n_vocab), np.single),
            input_ids=self.input_ids[: self.n_tokens].copy(),
            n_tokens=self.n_tokens,
            llama_state=bytes(memoryview(data)[:size]),
            llama_state_size=size,
            seed=self._seed,
        )

    @in_turn
    @in_step
    def load_state(self, state: RetainedState) -> None:
        """Go back to a saved state. One that is refused leaves the running one as it is.

        Raises
        ------
        RetainError : the state is damaged, of another model, or too large for this context.
        UsageError : it is none that `save_state` of this class made.
        """
        if not isinstance(state, RetainedState):
            raise UsageError(f"load_state takes what save_state returned, not {type(state).__name__}")
        n, size = state.n_tokens, state.llama_state_size
        if not 0 <= n <= min(len(state.input_ids), self._n_ctx):
            raise RetainError(f"the state has {n} tokens, which do not fit the context of {self._n_ctx}")
        if size != len(state.llama_state) or size == 0:
            raise RetainError(f"the state is damaged: it has {len(state.llama_state)} bytes, and should have {size}")
        if self._logits_all and len(state.scores) < n:
            raise RetainError("the state was saved without logits_all, and this model needs the logits of all tokens")
        data = (ctypes.c_uint8 * size).from_buffer_copy(state.llama_state)
        retain_h.clear_error()
        if not llama_cpp.llama_state_set_data(self.ctx, data, size):
            raise RetainError(f"the state is refused: {retain_h.error_text() or 'it is damaged or of another model'}")
        if self._logits_all:
            self.scores[:n] = state.scores[:n]
        pictures = [self.pictures.add(picture) for picture in state.pictures]  # held until they are found
        self.adopt_tokens(state.input_ids[:n].tolist(), state.history)
        del pictures
        self.retention.take_over_pins(state.pins, state.system_pin)
        self._seed = state.seed

    def adopt_tokens(self, tokens: Sequence[int], history: CacheHistory | None = None) -> None:
        """Take over the tokens that cells were just restored for, and how these came there, where that is known."""
        self._layout = Layout.of(tokens, self.pictures)
        limit = self._layout.token(self.retention._rollback_limit())
        if history is not None:
            self._history = history.copy()
        else:
            self._history = CacheHistory([Eviction(limit, None)] if limit > 0 else [])
        self._n_evictions = self.retention.stats().evictions
        self.n_tokens = len(tokens)
        self.input_ids[: self.n_tokens] = tokens
        self._requires_eval = True
        self._usage.changes += 1

    def __getstate__(self) -> dict[str, Any]:
        own = {"control_tokens_in_messages": self.control_tokens_in_messages, "mmproj": self._mmproj}
        return super().__getstate__() | asdict(self.options) | own


def _parameters() -> dict[str, inspect.Parameter]:
    """What `Llama` can be given: its own, those of the tables of options, and its parent's."""
    found = dict(inspect.signature(Llama.__init__, follow_wrapped=False).parameters)
    found.pop("arguments", None)
    for table in (RetentionOptions, ModelOptions):
        for one, _ in options_of(table):
            found[one.name] = inspect.Parameter(
                one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=one.type
            )
    for parent in Llama.__mro__[1:]:
        for p in inspect.signature(parent.__init__).parameters.values():
            if p.kind is inspect.Parameter.KEYWORD_ONLY:
                found.setdefault(p.name, p)
    return found


Llama.__init__.__signature__ = inspect.Signature(list(_parameters().values()))  # type: ignore[attr-defined]
