"""A model's chat format: its template, or plain lines, and the tokens that a conversation becomes."""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import RetainError
from .control_tokens import ControlTokens, Marks, message_texts
from .pictures import Pictures
from .renderer import check_template, render_template

if TYPE_CHECKING:
    from ..llama import Llama

Message = Mapping[str, Any]

_NO_PICTURES: Pictures = {}

PLAIN_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{ message['content'] + '\\n\\n' }}
{%- elif message['role'] == 'user' -%}
{{ 'User: ' + message['content'] + '\\n' }}
{%- else -%}
{{ 'Assistant: ' + message['content'] + '\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}
"""
PLAIN_STOP = ("\nUser:",)
_WORD = "harbour"


def _with_joined_parts(message: Message) -> Message:
    """A message with the texts of its parts one after the other, for a template that takes a text alone."""
    content = message.get("content")
    if not isinstance(content, list) or not all(isinstance(part, Mapping) and "text" in part for part in content):
        return message
    return {**message, "content": "".join(str(part["text"]) for part in content)}


class ChatFormat:
    """How conversations of one model are written.

    Parameters
    ----------
    llm : Llama
    template : a Jinja chat template; None: the model has none, and turns are lines that begin with `User:` and
        `Assistant:`.

    Attributes
    ----------
    is_plain : bool
        The model has no template.
    stop : tuple of str
        Strings that end a reply, beside the model's own end tokens.
    """

    def __init__(self, llm: Llama, template: str | None) -> None:
        self.is_plain = template is None
        self.stop = PLAIN_STOP if template is None else ()
        self._template = PLAIN_TEMPLATE if template is None else template
        self._llm = llm

    def check(self) -> None:
        """Find out whether the template can be used at all.

        Raises
        ------
        BadTemplate : it is not valid, or takes too much time or memory.
        """
        check_template(self._template)

    def render(self, messages: Sequence[Message], **variables: Any) -> str:
        """The text of a conversation up to where the next reply begins.

        Parameters
        ----------
        variables : more for the template, such as tools.

        Raises
        ------
        RetainError : the template refuses the conversation, fails, or takes too much time or memory.
        """
        if any(isinstance(message.get("content"), list) for message in messages) and not self._takes_parts:
            messages = [_with_joined_parts(message) for message in messages]
        return self._render(messages, variables)

    def _render(self, messages: Sequence[Message], variables: Mapping[str, Any]) -> str:
        own: dict[str, Any] = {"messages": list(messages), "add_generation_prompt": True, **self._texts}
        return render_template(self._template, {**own, **variables})

    @cached_property
    def _takes_parts(self) -> bool:
        """Whether the template takes a message whose content is a list of parts, and writes their texts alone."""
        with suppress(RetainError):
            text = self._render([{"role": "user", "content": [{"type": "text", "text": _WORD}]}], {})
            return _WORD in text and "'text'" not in text and '"text"' not in text
        return False

    @cached_property
    def _texts(self) -> dict[str, str]:
        tokens = {"bos_token": self._llm.token_bos(), "eos_token": self._llm.token_eos()}
        return {
            name: self._llm.detokenize([token], special=True).decode("utf-8", errors="replace") if token >= 0 else ""
            for name, token in tokens.items()
        }


class PromptTokenizer:
    """Tokens of rendered conversations, in which control tokens that stand in messages stay text.

    Parameters
    ----------
    llm : Llama
        Its `control_tokens_in_messages` tells that they are control tokens there too.
    """

    def __init__(self, llm: Llama) -> None:
        self._llm = llm

    @cached_property
    def _control_tokens(self) -> ControlTokens:
        return ControlTokens(self._llm)

    def hide(
        self, messages: Sequence[Message], render: Callable[[Sequence[Message]], str]
    ) -> tuple[list[Message], Marks]:
        """The messages as they are to be rendered, and the marks that `whole` and `inside` take back.

        A template may put a control token together from parts of a message, as one does that takes words out. So whatever
        could begin one is hidden too, as far as that does not change what the template writes.

        Parameters
        ----------
        render : the text of messages.
        """
        if self._llm.control_tokens_in_messages:
            return list(messages), {}
        hidden, marks = self._control_tokens.hide(messages)
        with suppress(RetainError):  # what is refused is refused again where it is rendered to be read
            for thorough, more in self._control_tokens.hide_beginnings(hidden):
                if more and render(thorough).translate(more) == render(hidden):
                    return thorough, {**marks, **more}
        return hidden, marks

    def whole(self, text: str, marks: Marks, pictures: Pictures = _NO_PICTURES) -> list[int]:
        """Tokens of a rendered conversation from its start: it begins a text once, whoever writes that token."""
        tokens = self._tokens(text, marks, pictures)
        bos = self._llm.token_bos()
        is_missing = self._llm._model.add_bos_token() and bos >= 0 and tokens[:1] != [bos]
        return [bos, *tokens] if is_missing else tokens

    def inside(self, text: str, marks: Marks, pictures: Pictures = _NO_PICTURES) -> list[int]:
        """Tokens of a text that goes on after other text: without the space that some tokenizers put first."""
        anchor = self._llm.tokenize(b"\n", add_bos=False, special=True)
        tokens = self._tokens(f"\n{text}", marks, pictures)
        is_anchored = bool(anchor) and tokens[: len(anchor)] == anchor
        return tokens[len(anchor) :] if is_anchored else self._tokens(text, marks, pictures)

    def _tokens(self, text: str, marks: Marks, pictures: Pictures) -> list[int]:
        if not pictures:
            return self._pieces(text, marks)
        tokens: list[int] = []
        for piece in re.split(f"([{''.join(map(re.escape, pictures))}])", text):
            # as libmtmd does: what stands between pictures is tokenized on its own
            tokens += pictures[piece].tokens if piece in pictures else self._pieces(piece, marks) if piece else ()
        return tokens

    def _pieces(self, text: str, marks: Marks) -> list[int]:
        pieces = self._control_tokens.pieces(text, marks) if marks else [(text, True)]
        return [
            token
            for piece, special in pieces
            for token in self._llm.tokenize(piece.encode(), add_bos=False, special=special)
        ]


def new_word(messages: Sequence[Message], unlike: str = "") -> str:
    """A word that stands nowhere in the messages, to stand for a text whose place is looked for.

    Parameters
    ----------
    unlike : the text that it stands for: their first characters differ, and their last.
    """
    ends = set(unlike[:1].lower() + unlike[-1:].lower())
    letters = [letter for letter in string.ascii_lowercase if letter not in ends]
    texts = list(message_texts(messages))
    while True:
        word = "".join(secrets.choice(letters) for _ in range(16))
        if not any(word in text for text in texts):
            return word
