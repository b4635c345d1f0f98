"""Lines that are broken between words while a text is written."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from retain_local.terminal.word_wrap import WordWrap


def screen(written: str) -> list[str]:
    """What a terminal shows, wide enough for every line."""
    lines: list[list[str]] = [[]]
    for control, char in re.findall(r"\x1b\[(\d*[DK])|(.)", written, re.DOTALL):
        if control.endswith("D"):
            del lines[-1][len(lines[-1]) - int(control[:-1]) :]
        elif char == "\n":
            lines.append([])
        elif char:
            lines[-1].append(char)
    return ["".join(line) for line in lines]


def shown(*pieces: str, columns: int = 11) -> list[str]:
    wrap = WordWrap(lambda: columns)
    return screen("".join(map(wrap, pieces)))


def test_a_word_that_does_not_fit_moves_down() -> None:
    assert shown("the sea is", " a vast", "ness of w", "ater") == ["the sea is", "a vastness", "of water"]
    assert shown("one\n\n  two three four") == ["one", "", "  two ", "three four"]


def test_an_end_of_line_at_the_margin_is_one() -> None:
    assert shown("the sea is \n", "a vast") == ["the sea is", "a vast"]
    assert shown("the sea is\n", "a vast") == ["the sea is", "a vast"]


def test_a_word_longer_than_a_line_is_cut() -> None:
    assert shown("a ", "incomprehensibilities") == ["a ", "incomprehe", "nsibilitie", "s"]


def test_wide_characters_part_anywhere() -> None:
    assert shown("ab 海洋广阔无垠") == ["ab 海洋广", "阔无垠"]


@given(st.lists(st.text("abcdefgh  \n", max_size=8)), st.integers(4, 30))
def test_nothing_is_lost_and_no_word_is_cut(pieces: list[str], columns: int) -> None:
    lines, text = shown(*pieces, columns=columns), "".join(pieces)
    assert all(cell_len(line) < columns for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
    short = [word for word in text.split() if len(word) < columns]
    found = "\n".join(lines).split()
    assert all(word in found for word in short)
