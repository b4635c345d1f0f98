"""What a user types in a chat: when it is complete, and whether it is a message or a command."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

BLOCK = '"""'  # begins and ends a message of several lines
COMMAND = "/"


@dataclass(frozen=True)
class Entry:
    """A message, or a command that begins with a slash."""

    text: str
    is_command: bool = False

    @classmethod
    def of(cls, typed: str) -> Entry:
        """What was typed, without the marks around it.

        A space before the slash makes a message of what would be a command, and so do the marks of a block.
        """
        text = typed.strip()
        if _begins_block(text):
            return cls(text.removeprefix(BLOCK).removesuffix(BLOCK).strip("\n"))
        return cls(text, is_command=typed.startswith(COMMAND))


def is_open_block(typed: str) -> bool:
    """Whether a block was begun that has not ended."""
    text = typed.strip()
    return _begins_block(text) and not (text.endswith(BLOCK) and len(text) >= 2 * len(BLOCK))


def _begins_block(text: str) -> bool:
    """Whether three quotation marks at the beginning are the marks of a block, and not of a title in a sentence."""
    first = text.partition("\n")[0]
    return first.startswith(BLOCK) and (BLOCK not in first[len(BLOCK) :] or first.endswith(BLOCK))


def entries_of_lines(lines: Iterable[str]) -> Iterator[Entry]:
    """Entries in lines of a file or a pipe, without empty ones.

    Each line is an entry. A backslash at its end joins the next line to it, and a line that begins with three quotation
    marks begins a message that goes on until three quotation marks end a line. What the input ends in is taken as it is.
    """
    typed: list[str] = []
    in_block = goes_on = False
    for line in lines:
        if not typed:
            in_block = is_open_block(line)
            goes_on = in_block or line.endswith("\\")
        else:
            goes_on = not line.rstrip().endswith(BLOCK) if in_block else line.endswith("\\")
        typed.append(line[:-1] if goes_on and not in_block else line)
        if not goes_on:
            yield from _entry(typed)
            typed.clear()
    if goes_on:
        yield from _entry(typed)


def _entry(typed: list[str]) -> Iterator[Entry]:
    entry = Entry.of("\n".join(typed))
    if entry.text:
        yield entry
