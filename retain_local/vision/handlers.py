"""The bindings' chat handlers for pictures, on a cache that evicts.

A handler of the bindings renders the messages, and then reads text and pictures into the cache itself, from the start and
past everything that keeps a cache exact. Here it makes its prompt only: it gets a view of the model that writes down what
it would have read, and a view of libmtmd that hands pictures over instead of computing them. The prompt is then completed
like any other.
"""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np

from ..bindings import log, mtmd
from ..errors import RetainError, UsageError
from .find import check_projector
from .picture import Picture
from .projector import Projector, unusable
from .source import read_image

from llama_cpp.llama_chat_format import Llava15ChatHandler, MTMDChatHandler  # isort: skip

if TYPE_CHECKING:
    from ..llama import Llama

KINDS = (Llava15ChatHandler, MTMDChatHandler)  # all others are made from these

Complete = Callable[..., Any]


def image_address(part: Mapping[str, Any]) -> str:
    """The address in a part of a message that is a picture.

    Raises
    ------
    UsageError : there is none.
    """
    found = part.get("image_url")
    address = found.get("url") if isinstance(found, Mapping) else found
    if not isinstance(address, str) or not address:
        raise UsageError('a picture in a message is {"type": "image_url", "image_url": {"url": "PATH or data URL"}}')
    return address


def is_image(part: Any) -> bool:
    """Whether a part of a message's content is a picture."""
    return isinstance(part, Mapping) and part.get("type") == "image_url"


class HandlerView:
    """A model as a chat handler for pictures sees it.

    Parameters
    ----------
    llm : Llama
    handler : one of the bindings', or made from one.
    complete : completes the prompt, as `create_completion`.

    Attributes
    ----------
    chat_handler : the handler, to be called with this view in the model's place.
    n_tokens : tokens of the prompt so far.
    """

    def __init__(self, llm: Llama, handler: Any, complete: Complete) -> None:
        self._llm, self._complete = llm, complete
        self._tokens: list[int] = []
        self._pictures: list[Picture] = []
        self._file = b""  # of the last picture, by the name that libmtmd gives it
        self._n_of_file = 0
        self.is_prompt_made = False
        self._projector = _projector_of(llm, handler)
        self.chat_handler = copy.copy(handler)
        self.chat_handler._mtmd_cpp = _LibraryView(self)
        if type(handler).load_image in (Llava15ChatHandler.load_image, MTMDChatHandler.load_image):
            self.chat_handler.load_image = read_image

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    @property
    def n_tokens(self) -> int:
        return len(self._tokens)

    @n_tokens.setter
    def n_tokens(self, n: int) -> None:
        del self._tokens[n:]

    @property
    def input_ids(self) -> Any:
        return np.array(self._tokens, np.intc)

    @property
    def _ctx(self) -> Any:
        return self  # of which handlers want the next two

    ctx: Any = None

    def kv_cache_clear(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._tokens.clear()

    def eval(self, tokens: Sequence[int]) -> None:
        self._tokens += tokens

    def take(self, chunk: int) -> None:
        """Note the picture of an image chunk."""
        file = mtmd.load().mtmd_input_chunk_get_id(chunk) or b""
        self._n_of_file = self._n_of_file + 1 if file == self._file else 0
        self._file = file
        picture = self._projector.picture(chunk, self._n_of_file)
        self._pictures.append(picture)
        self._tokens += picture.tokens

    def create_completion(self, prompt: Any, **settings: Any) -> Any:
        """Complete the prompt that was noted."""
        self.is_prompt_made = True
        return self._complete(prompt=list(self._tokens), **settings)


def complete_with_handler(
    llm: Llama, handler: Any, messages: Sequence[Mapping[str, Any]], complete: Complete, create: Callable[..., Any]
) -> Any:
    """Complete a chat whose prompt a handler of the bindings makes.

    Parameters
    ----------
    complete : as for `HandlerView`.
    create : the bindings' `create_chat_completion`, called with a view of the model.

    Raises
    ------
    RetainError : a picture cannot be read, or the handler refuses the messages.
    UsageError : a part of a message is not what it has to be.
    """
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, Sequence) and not isinstance(content, str) else ():
            if is_image(part):
                image_address(part)
    view = HandlerView(llm, handler, complete)
    log.forget_errors()
    try:
        return create(view)
    except (ValueError, KeyError, TypeError, jinja2.TemplateError) as error:
        if view.is_prompt_made or isinstance(error, RetainError):
            raise
        reason = (log.first_error() or "").partition("\n")[0]
        raise RetainError(f"{type(handler).__name__}: {error}{f' ({reason})' if reason else ''}") from None


def _projector_of(llm: Llama, handler: Any) -> Projector:
    """The projector that a handler holds, which is loaded with its first use."""
    mtmd.load()
    check_projector(Path(handler.clip_model_path), llm._model.model)
    log.forget_errors()
    with suppress(ValueError):
        handler._init_mtmd_context(llm)
    if handler.mtmd_ctx is None:
        raise RetainError(unusable(handler.clip_model_path))
    return Projector(llm, handler.clip_model_path, lambda: handler.mtmd_ctx)


class _LibraryView:
    """libmtmd as a chat handler sees it: it computes nothing in the model's context."""

    def __init__(self, view: HandlerView) -> None:
        self._view, self._library = view, mtmd.load()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def mtmd_helper_eval_chunk_single(
        self,
        _context: int,
        _llama_context: Any,
        chunk: int,
        _n_past: Any,
        _sequence: Any,
        _n_batch: int,
        _logits_last: bool,
        new_n_past: Any,
    ) -> int:
        """Note a picture; what follows goes on behind its tokens."""
        self._view.take(chunk)
        ctypes.cast(new_n_past, ctypes.POINTER(ctypes.c_int32))[0] = self._view.n_tokens
        return 0
