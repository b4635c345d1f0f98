"""Completions that end at their last token, in the middle of a character too."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np
import pytest

from conftest import TinyFiles
from support.llamas import load, prompt

FIRST_BYTE = 3  # token of the byte 0 in the vocabulary of a tiny model


def writes(text: bytes) -> list[Any]:
    """Processors of logits that make a model write these bytes over and over, a token each."""
    script = cycle(text)

    def only(_tokens: Any, logits: np.ndarray) -> np.ndarray:
        forced = np.full_like(logits, -np.inf)
        forced[FIRST_BYTE + next(script)] = 0
        return forced

    return [only]


def complete(llm: Any, tokens: list[int], text: bytes, stream: bool, **options: Any) -> tuple[str, str, int | None]:
    """Text, reason and number of tokens of a completion."""
    options |= {"temperature": 0.0, "logits_processor": writes(text)}
    if not stream:
        found = llm.create_completion(tokens, **options)
        choice = found["choices"][0]
        return choice["text"], choice["finish_reason"], found["usage"]["completion_tokens"]
    chunks = [chunk["choices"][0] for chunk in llm.create_completion(tokens, stream=True, **options)]
    assert [chunk["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    return "".join(chunk["text"] for chunk in chunks), chunks[-1]["finish_reason"], None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("max_tokens, text", [(1, "a"), (2, "a"), (3, "a"), (4, "a€"), (5, "a€a"), (7, "a€a")])
def test_max_tokens_are_the_most(tiny: TinyFiles, stream: bool, max_tokens: int, text: str) -> None:
    llm = load(tiny.model("llama"), policy="window", budget=64)
    found = complete(llm, prompt(llm, 20), "a€".encode(), stream, max_tokens=max_tokens)
    assert found[:2] == (text, "length") and found[2] in (max_tokens, None)
    assert llm.n_tokens == 20 + max_tokens - 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("max_tokens", [None, 0, 1000])
@pytest.mark.parametrize("room, text", [(1, ""), (4, "é"), (6, "é😀"), (7, "é😀"), (8, "é😀é")])
def test_the_context_ends_inside_a_character(
    tiny: TinyFiles, stream: bool, max_tokens: int | None, room: int, text: str
) -> None:
    llm = load(tiny.model("llama"), policy="window", budget=64, n_ctx=256)
    found = complete(llm, prompt(llm, 256 - room), "é😀".encode(), stream, max_tokens=max_tokens)
    assert found[:2] == (text, "length") and found[2] in (room, None)


@pytest.mark.parametrize("stream", [False, True])
def test_other_reasons_stay(tiny: TinyFiles, stream: bool) -> None:
    from llama_cpp import StoppingCriteriaList

    llm = load(tiny.model("llama"), policy="window", budget=64)
    tokens = prompt(llm, 20)
    assert complete(llm, tokens, b"abc", stream, max_tokens=9, stop=["cab"])[:2] == ("ab", "stop")
    until = StoppingCriteriaList([lambda ids, _logits: len(ids) > 22])
    assert complete(llm, tokens, b"abc", stream, max_tokens=9, stopping_criteria=until)[:2] == ("abc", "stop")
