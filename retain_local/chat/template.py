"""The turns of a chat, and how a conversation grows without being read again.

Templates rewrite history: they trim replies, drop a model's thoughts, or move the system message to the last turn. A
cache cannot be rewritten, so a conversation is only ever appended to: what was read and written stays as it was, and the
template provides what comes after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import RetainError
from ..prompts.chat_format import ChatFormat, Message, new_word
from ..prompts.completion import template_of
from ..prompts.control_tokens import message_texts
from ..prompts.pictures import check_written
from ..prompts.system_message import system_range, system_text
from ..vision.projector import ReadImage

if TYPE_CHECKING:
    from ..llama import Llama


class RewrittenHistory(RetainError):
    """The template leaves earlier replies out, so that a conversation cannot be appended to."""


class ChatTemplate:
    """Renders conversations for one model.

    Attributes
    ----------
    is_plain : bool
        The model has no template of its own: turns are lines that begin with `User:` and `Assistant:`, the system
        message comes first, and a line that begins with `User:` ends a reply.
    pictures : dict of str to ReadImage
        The pictures of the conversation, by the marks that stand for them in messages.
    stop : tuple of str
        Strings that end a reply, beside the model's own end tokens.

    Raises
    ------
    BadTemplate : the model's template is not valid.
    """

    def __init__(self, llm: Llama) -> None:
        self._format = ChatFormat(llm, template_of(llm.metadata))
        self._format.check()
        self._tokenizer = llm.prompt_tokenizer
        self.is_plain, self.stop = self._format.is_plain, self._format.stop
        self.pictures: dict[str, ReadImage] = {}

    def first_turn(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of a conversation up to where the next reply begins."""
        hidden, marks = self._tokenizer.hide(messages, self._format.render)
        text = self._format.render(hidden)
        check_written(text, self._marks_in(messages))
        return self._tokenizer.whole(text, marks, self.pictures)

    def _marks_in(self, messages: Sequence[Message]) -> list[str]:
        texts = "".join(message_texts(messages))
        return [mark for mark in self.pictures if mark in texts]

    def system_range(self, messages: Sequence[Message]) -> tuple[int, int]:
        """Tokens [start, stop) of the system message in `first_turn`; (0, 0) without one."""
        return system_range(messages, self.first_turn)

    def next_turn(self, messages: Sequence[Message], ending: str = "") -> list[int]:
        """Tokens between the last reply of a conversation and the next one: its end, and the messages after it.

        Parameters
        ----------
        messages : the conversation, whose last reply is followed by the new user message.
        ending : a stop string that the model wrote after its last reply, so that it need not be read again.

        Raises
        ------
        RewrittenHistory : the template leaves out the last reply.
        """
        hidden, marks = self._tokenizer.hide(messages, self._format.render)
        text = self._after_last_reply(hidden)
        if system_text(hidden):
            word = new_word(hidden)
            if word in self._after_last_reply([{**hidden[0], "content": word}, *hidden[1:]]):
                # it was read in the first turn, and is not read again in each
                text = self._after_last_reply(hidden[1:])
        last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
        check_written(text, self._marks_in(messages[last + 1 :]))
        return self._tokenizer.inside(text.removeprefix(ending), marks, self.pictures)

    def _after_last_reply(self, messages: Sequence[Message]) -> str:
        last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
        word = new_word(messages)
        text = self._format.render([*messages[:last], {"role": "assistant", "content": word}, *messages[last + 1 :]])
        at = text.rfind(word)
        if at < 0:
            raise RewrittenHistory("the model's chat template leaves out earlier replies")
        return text[at + len(word) :]

    def reply_tokens(self, text: str) -> list[int]:
        """Tokens of a reply, as the model would have written it after `first_turn` or `next_turn`."""
        reply = {"role": "assistant", "content": text}
        ((hidden,), marks) = self._tokenizer.hide([reply], lambda messages: messages[0]["content"])
        return self._tokenizer.inside(hidden["content"], marks)
