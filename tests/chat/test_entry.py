"""What a user types in a chat: messages, commands, and what goes on over several lines."""

from __future__ import annotations

import pytest

from retain_local.chat.entry import Entry, entries_of_lines, is_open_block


def entries(*lines: str) -> list[Entry]:
    return list(entries_of_lines(lines))


def test_a_slash_begins_a_command_unless_a_space_is_before_it() -> None:
    assert entries("/stats", " /usr/bin is a folder", "hello /stats") == [
        Entry("/stats", is_command=True),
        Entry("/usr/bin is a folder"),
        Entry("hello /stats"),
    ]


def test_a_backslash_joins_lines() -> None:
    assert entries("one\\", "two\\", "three", "four\\") == [Entry("one\ntwo\nthree"), Entry("four")]


def test_a_block_takes_lines_as_they_are() -> None:
    block = ['"""', "/* code */", "  x = 1\\", "", 'y = ""', '"""']
    assert entries(*block, "after") == [Entry('/* code */\n  x = 1\\\n\ny = ""'), Entry("after")]
    assert entries('"""/stats', 'is a command"""') == [Entry("/stats\nis a command")]
    assert entries('"""in one line"""', '"""', '"""', "after") == [Entry("in one line"), Entry("after")]


def test_a_block_that_the_input_ends_in_is_sent() -> None:
    assert entries('"""', "not", "closed") == [Entry("not\nclosed")]


def test_a_title_in_quotation_marks_is_no_block() -> None:
    assert entries('"""Emma""" is a book', "by whom?") == [Entry('"""Emma""" is a book'), Entry("by whom?")]


@pytest.mark.parametrize("typed", ['"""', '"""a', '"""a\nb', ' """a "b"'])
def test_an_open_block(typed: str) -> None:
    assert is_open_block(typed)


@pytest.mark.parametrize("typed", ["", "a", '""', '"""a"""', '"""a\nb"""', 'a """', '"""a""" b'])
def test_no_open_block(typed: str) -> None:
    assert not is_open_block(typed)


def test_empty_entries_are_left_out() -> None:
    assert entries("", "  ", "\\", "", "a") == [Entry("a")]
