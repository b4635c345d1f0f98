"""Chat templates: the plain one, and turns that are appended; `test_all_templates.py` has real ones."""

from __future__ import annotations

import pytest

from conftest import TinyFiles
from retain_local.chat.template import ChatTemplate
from retain_local.errors import RetainError
from support.llamas import load

HELLO = [{"role": "user", "content": "hello"}]
LATER = [*HELLO, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "more"}]

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content']|trim + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# drops a model's thoughts from history, as templates of thinking models do
FORGETFUL = CHATML.replace("m['content']|trim", "m['content'].split('</think>')[-1]|trim")
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
)
WITH_BOS = "{{ bos_token }}" + CHATML
LOSES_REPLIES = "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def llm(tiny: TinyFiles):
    return load(tiny.model("llama"), policy="window")


def template(llm, text: str | None) -> ChatTemplate:
    llm.metadata.pop("tokenizer.chat_template", None)
    if text is not None:
        llm.metadata["tokenizer.chat_template"] = text
    return ChatTemplate(llm)


def shown(llm, tokens: list[int]) -> str:
    """The text of tokens, special ones included, without the space that begins a text."""
    text = llm.detokenize([0, *tokens], special=True).decode().removeprefix("<unk>")
    return text.replace("<s> ", "<s>").removeprefix(" ")


def test_a_template_of_the_model(llm) -> None:
    chat = template(llm, CHATML)
    assert not chat.is_plain and chat.stop == ()
    assert shown(llm, chat.first_turn(HELLO)).endswith("<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("text", [CHATML, WITH_BOS])
def test_a_text_begins_once(llm, text: str) -> None:
    tokens = template(llm, text).first_turn(HELLO)
    assert tokens[0] == llm.token_bos() and tokens.count(llm.token_bos()) == 1


@pytest.mark.parametrize("text", [CHATML, WITH_BOS, FORGETFUL])
def test_the_next_turn_is_what_follows_the_reply(llm, text: str) -> None:
    tokens = template(llm, text).next_turn(LATER)
    assert llm.detokenize(tokens) == b"<|im_end|>\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n"


def test_the_plain_template(llm) -> None:
    chat = template(llm, None)
    assert chat.is_plain and chat.stop == ("\nUser:",)
    system = {"role": "system", "content": "be brief"}
    assert shown(llm, chat.first_turn([system, *HELLO])) == "<s>be brief\n\nUser: hello\nAssistant:"
    assert llm.detokenize(chat.next_turn(LATER)) == b"\nUser: more\nAssistant:"
    # the model wrote the stop string itself
    assert llm.detokenize(chat.next_turn(LATER, "\nUser:")) == b" more\nAssistant:"


def test_a_template_that_refuses(llm) -> None:
    chat = template(llm, NO_SYSTEM)
    chat.first_turn(HELLO)
    with pytest.raises(RetainError, match="refuses the conversation: System role not supported"):
        chat.first_turn([{"role": "system", "content": "x"}, *HELLO])


def test_a_template_that_is_broken(llm) -> None:
    with pytest.raises(RetainError, match="chat template is not valid"):
        template(llm, "{% if %}")


def test_a_template_that_loses_replies(llm) -> None:
    with pytest.raises(RetainError, match="leaves out earlier replies"):
        template(llm, LOSES_REPLIES).next_turn(LATER)


def test_a_template_cannot_reach_out(llm) -> None:
    chat = template(llm, "{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(RetainError, match="fails: SecurityError"):
        chat.first_turn(HELLO)
