"""Control tokens in messages: text, unless a caller wants otherwise, in every vocabulary that llama.cpp carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from conftest import TinyFiles
from retain_local import Llama
from retain_local.chat.template import ChatTemplate
from retain_local.errors import RetainError
from retain_local.prompts.chat_format import PromptTokenizer
from retain_local.prompts.control_tokens import ControlTokens, message_texts
from support.llamas import load
from support.upstream import write_vocabularies

VOCABULARIES = """
aquila baichuan bert-bge command-r deepseek-coder deepseek-llm falcon gemma-4 gpt-2 gpt-neox llama-bpe llama-spm mpt
nomic-bert-moe phi-3 qwen2 qwen35 refact starcoder
""".split()


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    paths = write_vocabularies(tmp_path_factory.mktemp("vocabularies"), *VOCABULARIES)
    return dict(zip(VOCABULARIES, paths))


@pytest.mark.parametrize("name", VOCABULARIES)
def test_what_is_no_control_token_stays_what_it_was(vocabularies: dict[str, Path], name: str) -> None:
    """The text around a control token of a message is tokenized as if a word stood there."""
    llm = Llama(vocabularies[name], vocab_only=True)
    tokenizer, mark = PromptTokenizer(llm), chr(0xF0000)
    texts = sorted(ControlTokens(llm)._attributes, key=len)
    for control in (*texts[:20], *texts[-20:]):
        text = f"{control}user\n  Hello there zq and so on\n {control} \n assistant\n{control}"
        expected = llm.tokenize(text.encode(), add_bos=False, special=True)
        assert tokenizer._pieces(text.replace("zq", mark), {ord(mark): "zq"}) == expected


def content_alone(messages: Sequence[Mapping[str, Any]]) -> str:
    return messages[0]["content"]


@pytest.mark.parametrize("name, control", [("qwen2", "<|im_end|>"), ("llama-spm", "</s>"), ("phi-3", "<|end|>")])
def test_a_control_token_in_a_message_is_text(vocabularies: dict[str, Path], name: str, control: str) -> None:
    llm = Llama(vocabularies[name], vocab_only=True)
    tokenizer = PromptTokenizer(llm)
    (token,) = llm.tokenize(control.encode(), add_bos=False, special=True)
    ((message,), marks) = tokenizer.hide([{"role": "user", "content": f"a {control} b"}], content_alone)
    assert control not in message["content"]
    tokens = tokenizer.whole(f"{control}{message['content']}{control}", marks)
    assert tokens.count(token) == 2
    assert f"a {control} b" in llm.detokenize(tokens, special=True).decode()
    llm.control_tokens_in_messages = True
    ((message,), marks) = tokenizer.hide([{"role": "user", "content": f"a {control} b"}], content_alone)
    assert tokenizer.whole(f"{control}{message['content']}{control}", marks).count(token) == 3


# from messages, or from a message and what the template writes beside it
PUT_TOGETHER = {
    "{{ messages[0].content | replace('/think', '') }}": "a<|im_/thinkend|>b",
    "{{ messages[0].content }}|>b": "a<|im_end",
    "{{ messages[0].content.split('</x>') | join }}": "a<|im_end</x>|>b",
    "{{ messages[0].content }}{{ messages[1].content }}": "a<|im_",
}


@pytest.mark.parametrize("template", PUT_TOGETHER)
def test_no_control_token_is_put_together(vocabularies: dict[str, Path], template: str) -> None:
    llm = Llama(vocabularies["qwen2"], vocab_only=True)
    llm.metadata["tokenizer.chat_template"] = template + "<|im_end|>"
    messages = [{"role": "user", "content": PUT_TOGETHER[template]}, {"role": "user", "content": "end|>b"}]
    tokens = ChatTemplate(llm).first_turn(messages)
    (token,) = llm.tokenize(b"<|im_end|>", add_bos=False, special=True)
    assert llm.detokenize(tokens, special=True) == b"a<|im_end|>b<|im_end|>"
    assert tokens.count(token) == 1 and tokens[-1] == token


def test_what_a_template_looks_for_is_found(vocabularies: dict[str, Path]) -> None:
    """To hide a character is given up where a template looks at it; whole control tokens stay hidden."""
    llm = Llama(vocabularies["qwen2"], vocab_only=True)
    llm.metadata["tokenizer.chat_template"] = "{{ messages[0].content.split('</think>')[-1] }}<|im_end|>"
    tokens = ChatTemplate(llm).first_turn([{"role": "user", "content": "a < b</think>c <|im_end|>"}])
    assert llm.detokenize(tokens, special=True) == b"c <|im_end|><|im_end|>"
    assert tokens.count(tokens[-1]) == 1


@pytest.fixture(scope="module")
def controls(tiny: TinyFiles) -> ControlTokens:
    return ControlTokens(load(tiny.model("llama"), policy="window"))


def test_every_text_of_a_message(controls: ControlTokens) -> None:
    messages: list[dict[str, Any]] = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "a</s>"}, {"type": "image_url", "image_url": {"url": "</s>"}}],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "f", "arguments": {"x": ["<s>", 1]}}}],
        },
        {"role": "tool", "content": "<unk></s>"},
    ]
    hidden, marks = controls.hide(messages)
    assert not any(control in text for text in message_texts(hidden) for control in ("<s>", "</s>", "<unk>"))
    assert [text.translate(marks) for text in message_texts(hidden)] == list(message_texts(messages))
    assert [message["role"] for message in hidden] == ["user", "assistant", "tool"]


def test_messages_without_control_tokens_are_left_alone(controls: ControlTokens) -> None:
    messages = [{"role": "user", "content": "<b> [INST] \U000f0000"}]
    assert controls.hide(messages) == (messages, {})


def test_a_mark_stands_in_no_message(controls: ControlTokens) -> None:
    all_but_one = "".join(map(chr, range(0xF0000, 0xFFFFD)))
    hidden, marks = controls.hide([{"role": "user", "content": all_but_one + "</s>"}])
    assert marks == {0xFFFFD: "</s>"} and hidden[0]["content"] == all_but_one + chr(0xFFFFD)
    with pytest.raises(RetainError, match="every character of a private use area"):
        controls.hide([{"role": "user", "content": all_but_one + "<s></s>"}])
