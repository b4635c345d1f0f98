"""Writing one text: characters, stop strings, times."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retain_local.chat.generation import Generation, Sampling
from retain_local.errors import RetainError, UsageError
from retain_local.options.retention_options import RetentionOptions

END = 1000


class Scripted:
    """A model that writes the bytes it is told to, a token each."""

    def __init__(self, text: bytes, n_ctx: int = 1000, ends: bool = True) -> None:
        self.script = [*text, END] if ends else [*text]
        self._n_ctx = n_ctx
        self.options = RetentionOptions()
        self.seed: int | None = None

    def n_ctx(self) -> int:
        return self._n_ctx

    def cached_prefix(self, tokens: Sequence[int], continues: bool) -> int:
        return len(tokens) // 2

    def set_seed(self, seed: int) -> None:
        self.seed = seed

    def is_end(self, token: int) -> bool:
        return token == END

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        return bytes(tokens)

    def generate(self, tokens: Sequence[int], **arguments: Any) -> Iterator[int]:
        yield from self.script


def write(
    text: bytes | str, stop: Sequence[str] = (), n_ctx: int = 1000, **sampling: Any
) -> tuple[list[str], Generation]:
    raw = text.encode() if isinstance(text, str) else text
    generation = Generation(Scripted(raw, n_ctx), [1, 2, 3, 4], Sampling(**sampling), stop)
    return list(generation), generation


def test_a_text_to_its_end() -> None:
    pieces, generation = write("hello")
    assert pieces == list("hello") and generation.text == "hello"
    assert generation.finish_reason == "stop" and generation.stopped_by == ""
    assert generation.tokens == list(b"hello") and generation.n_prompt == 2
    assert generation.prompt_rate > 0 and generation.generation_rate > 0


def test_an_empty_text() -> None:
    pieces, generation = write("")
    assert pieces == [] and generation.finish_reason == "stop" and generation.generation_rate == 0


def test_characters_come_whole() -> None:
    assert write("日本é☺")[0] == list("日本é☺")


def test_half_a_character_at_the_end() -> None:
    assert "".join(write("a日".encode()[:-1])[0]) == "a\N{REPLACEMENT CHARACTER}"


def test_max_tokens_and_the_context() -> None:
    _, generation = write("hello", max_tokens=3)
    assert (generation.text, generation.finish_reason) == ("hel", "length")
    _, generation = write("hello", n_ctx=6)
    assert (generation.text, generation.finish_reason) == ("he", "length")


def test_stop_strings() -> None:
    pieces, generation = write("one\nUser: two", ["\nUser:", "never"])
    assert "".join(pieces) == generation.text == "one"
    assert (generation.finish_reason, generation.stopped_by) == ("stop", "\nUser:")


def test_the_beginning_of_a_stop_string_is_held_and_released() -> None:
    pieces, _ = write("ab\nUse it", ["\nUser:"])
    assert pieces == ["a", "b", "\nUse ", "i", "t"]
    assert "".join(write("ab\nUs", ["\nUser:"])[0]) == "ab\nUs"


@given(st.text("ab\n", max_size=30), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3))
def test_stop_strings_cut_where_they_first_end(text: str, stop: list[str]) -> None:
    pieces, generation = write(text, stop)
    # the text ends with the first character that completes a stop string, and loses that string
    ends = [(text.find(each) + len(each), text.find(each), each) for each in stop if each in text]
    first = min(end for end, _, _ in ends) if ends else None
    expected = text if first is None else text[: min(at for end, at, _ in ends if end == first)]
    assert "".join(pieces) == generation.text == expected


def test_an_interrupted_text_keeps_what_was_written() -> None:
    generation = Generation(Scripted(b"hello"), [1], Sampling())
    pieces = iter(generation)
    next(pieces), next(pieces)
    pieces.close()
    assert generation.text == "he" and generation.tokens == list(b"he") and generation.finish_reason is None


def test_seeds() -> None:
    model = Scripted(b"")
    list(Generation(model, [1], Sampling(seed=7)))
    assert model.seed == 7
    list(Generation(model, [1], Sampling()))
    assert model.seed != 7


def test_prompts_that_cannot_be() -> None:
    with pytest.raises(RetainError, match="prompt is empty"):
        Generation(Scripted(b""), [], Sampling())
    with pytest.raises(RetainError, match="the text is 10 tokens long and the context 10"):
        Generation(Scripted(b"", n_ctx=10), list(range(10)), Sampling())


@pytest.mark.parametrize(
    "setting",
    [
        {"temp": -1},
        {"temp": float("nan")},
        {"top_p": 1.5},
        {"min_p": -0.1},
        {"top_k": -1},
        {"top_k": 2**31},
        {"temp": math.nan},
        {"top_p": math.nan},
        {"repeat_penalty": math.nan},
        {"repeat_penalty": math.inf},
        {"repeat_penalty": 0},
        {"seed": -1},
        {"seed": 2**32},
        {"max_tokens": 0},
    ],
)
def test_settings_out_of_range(setting: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(setting)).replace("_", "-")):
        Sampling(**setting)
