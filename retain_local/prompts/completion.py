"""`create_chat_completion`, so that its prompts are those of `retain-local chat`.

The bindings hand the model to a chat handler, which renders the messages, tokenizes the text and completes it. Here the
handler gets a view of the model that does the last two as `chat` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..bindings import llama_cpp
from ..vision.handlers import HandlerView, complete_with_handler
from .chat_format import ChatFormat
from .pictures import check_written, take_pictures
from .system_message import system_range

from llama_cpp.llama_chat_format import ChatFormatterResponse, chat_formatter_to_chat_completion_handler  # isort: skip

if TYPE_CHECKING:
    from ..llama import Llama

DEFAULT_FORMAT = "chat_template.default"
_PREFIX = "tokenizer."
_TEMPLATE_KEY = "tokenizer.chat_template"

ToTokens = Callable[[str], list[int]]

# taken now: a program may put a class of its own in the place of the bindings', so that others make models with it
_create_chat_completion = llama_cpp.Llama.create_chat_completion


def template_of(metadata: Mapping[str, str]) -> str | None:
    """The chat template that a model's metadata names for any chat."""
    return metadata.get(_TEMPLATE_KEY)


def without_templates(metadata: Mapping[str, str]) -> dict[str, str]:
    """A model's metadata as it would be without any chat template."""
    return {key: value for key, value in metadata.items() if not key.startswith(_TEMPLATE_KEY)}


def chat_handlers(llm: Llama) -> dict[str, Callable[..., Any]]:
    """A chat handler for each template in the model's metadata, by the names that the bindings give them.

    A template is looked at when it is first used: a bad one costs nothing but the chat.
    """
    templates = {key[len(_PREFIX) :]: text for key, text in llm.metadata.items() if key.startswith(f"{_TEMPLATE_KEY}.")}
    formats = {name: ChatFormat(llm, text) for name, text in templates.items()}
    formats[DEFAULT_FORMAT] = ChatFormat(llm, template_of(llm.metadata))
    return {name: chat_formatter_to_chat_completion_handler(_formatter(each)) for name, each in formats.items()}


def _formatter(chat_format: ChatFormat) -> Callable[..., ChatFormatterResponse]:
    def render(*, messages: Sequence[Mapping[str, Any]], **variables: Any) -> ChatFormatterResponse:
        return ChatFormatterResponse(
            prompt=chat_format.render(messages, **variables), stop=list(chat_format.stop), added_special=True
        )

    return render


def complete_chat(llm: Llama, messages: Sequence[Mapping[str, Any]], args: tuple[Any, ...], kwargs: Any) -> Any:
    """What `create_chat_completion` of the bindings returns, from a prompt in which control tokens of messages are text.

    With `pin_system` the system message is pinned.

    Raises
    ------
    RetainError : a picture in the messages cannot be read.
    """
    tokenizer = llm.prompt_tokenizer
    # replies of OpenAI's client, which go back as they came
    messages = [each.model_dump(exclude_none=True) if hasattr(each, "model_dump") else each for each in messages]
    messages, pictures = take_pictures(llm, messages)

    def handle(each: Sequence[Mapping[str, Any]], to_tokens: ToTokens, complete: Callable[..., Any]) -> Any:
        return _create_chat_completion(_View(llm, to_tokens, complete), each, *args, **kwargs)

    def text_of(each: Sequence[Mapping[str, Any]]) -> str:
        def stop(text: str = "", **_: Any) -> Any:
            raise _Prompt(text)

        try:
            handle(each, stop, stop)
        except _Prompt as found:
            return found.text
        return ""

    def prompt_of(each: Sequence[Mapping[str, Any]]) -> list[int]:
        hidden, marks = tokenizer.hide(each, text_of)
        return tokenizer.whole(text_of(hidden), marks, pictures)

    def to_tokens(text: str) -> list[int]:
        check_written(text, list(pictures))
        return tokenizer.whole(text, marks, pictures)

    hidden, marks = tokenizer.hide(messages, text_of)
    complete: Callable[..., Any] = llm.create_completion
    if llm.options.pin_system:
        pinned = system_range(messages, prompt_of)

        def complete(prompt: Sequence[int], **settings: Any) -> Any:
            return llm.complete_with_system(prompt, pinned, **settings)

    return handle(hidden, to_tokens, complete)


def complete_pictures(
    llm: Llama, handler: Any, messages: Sequence[Mapping[str, Any]], args: tuple[Any, ...], kwargs: Any
) -> Any:
    """What `create_chat_completion` of the bindings returns, from a prompt that their handler for pictures makes."""

    def create(view: HandlerView) -> Any:
        return _create_chat_completion(view, list(messages), *args, **kwargs)

    return complete_with_handler(llm, handler, messages, llm.create_completion, create)


class _Prompt(BaseException):
    """Ends a handler once it has made its prompt; not an Exception, since some handlers catch those."""

    def __init__(self, text: str) -> None:
        self.text = text


class _View:
    """A model as a chat handler sees it."""

    def __init__(self, llm: Llama, to_tokens: ToTokens, complete: Callable[..., Any]) -> None:
        self._llm, self._to_tokens, self._complete = llm, to_tokens, complete

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        if not special:  # no prompt
            return self._llm.tokenize(text, add_bos, special)
        return self._to_tokens(text.decode("utf-8", errors="replace"))

    def create_completion(self, prompt: str | Sequence[int], **settings: Any) -> Any:
        tokens = self._to_tokens(prompt) if isinstance(prompt, str) else prompt
        return self._complete(prompt=tokens, **settings)
