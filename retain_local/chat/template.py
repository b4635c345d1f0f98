"""A model's chat template, and how a conversation grows without being read again.

Templates rewrite history: they trim replies and drop a model's thoughts. A cache cannot be rewritten, so a conversation
is only ever appended to: what the model wrote stays as it wrote it, and the template provides what comes after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jinja2

from ..errors import RetainError

if TYPE_CHECKING:
    from ..llama import Llama

Message = Mapping[str, str]

_REPLY = "REPLYGOESHERE"  # stands for a reply where only what follows it matters

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


class ChatTemplate:
    """Renders conversations for one model.

    Attributes
    ----------
    is_plain : bool
        The model has no template of its own: turns are lines that begin with `User:` and `Assistant:`, the system
        message comes first, and a line that begins with `User:` ends a reply.
    stop : tuple of str
        Strings that end a reply, beside the model's own end tokens.
    """

    def __init__(self, llm: Llama) -> None:
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        own = llm.metadata.get("tokenizer.chat_template")
        self.is_plain = own is None
        self.stop = PLAIN_STOP if own is None else ()
        self._llm = llm
        texts = {"eos_token": self._token_text(llm.token_eos()), "bos_token": self._token_text(llm.token_bos())}
        try:
            self._formatter = Jinja2ChatFormatter(template=PLAIN_TEMPLATE if own is None else own, **texts)
        except jinja2.TemplateError as error:
            raise RetainError(f"the model's chat template is not valid: {error}") from None

    def _token_text(self, token: int) -> str:
        return self._llm.detokenize([token], special=True).decode("utf-8", errors="replace") if token >= 0 else ""

    def first_turn(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of a conversation up to where the next reply begins."""
        tokens = self._llm.tokenize(self._render(messages).encode(), add_bos=False, special=True)
        bos = self._llm.token_bos()
        # some templates write the token that begins a text and some leave it to the tokenizer
        missing = self._llm._model.add_bos_token() and bos >= 0 and tokens[:1] != [bos]
        return [bos] * missing + tokens

    def next_turn(self, messages: Sequence[Message], ending: str = "") -> list[int]:
        """Tokens between the last reply of a conversation and the next one: its end, and the messages after it.

        Parameters
        ----------
        messages : the conversation, whose last reply is followed by the new user message.
        ending : a stop string that the model wrote after its last reply, so that it need not be read again.
        """
        last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
        shown = [*messages[:last], {"role": "assistant", "content": _REPLY}, *messages[last + 1 :]]
        text = self._render(shown)
        at = text.rfind(_REPLY)
        if at < 0:
            raise RetainError(
                "the model's chat template leaves out earlier replies, so the chat cannot go on; /clear it"
            )
        return self._tokenize_inside(text[at + len(_REPLY) :].removeprefix(ending))

    def reply_tokens(self, text: str) -> list[int]:
        """Tokens of a reply, as the model would have written it after `first_turn` or `next_turn`."""
        return self._tokenize_inside(text)

    def _render(self, messages: Sequence[Message]) -> str:
        try:
            return self._formatter(messages=list(messages)).prompt
        except (jinja2.TemplateError, ValueError, TypeError) as error:
            raise RetainError(f"the model's chat template refuses the conversation: {error}") from None

    def _tokenize_inside(self, text: str) -> list[int]:
        """Tokens of a text that goes on after other text: without the space that some tokenizers put first."""
        anchor = self._llm.tokenize(b"\n", add_bos=False, special=True)
        tokens = self._llm.tokenize(b"\n" + text.encode(), add_bos=False, special=True)
        if anchor and tokens[: len(anchor)] == anchor:
            return tokens[len(anchor) :]
        return self._llm.tokenize(text.encode(), add_bos=False, special=True)
