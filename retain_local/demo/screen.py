"""What the demo prints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ..tasks import Question
from ..tasks.compose import SMALL_TALK
from ..terminal.byte_format import format_bytes
from ..terminal.whole_table import print_whole
from .conversation import Conversation

if TYPE_CHECKING:
    from ..evaluation.conversation import Replies
    from ..retention.stats import RetentionStats

_FACT, _DECOY, _NOISE = "green", "yellow", "dim"
_SMALL_TALK = {said for said, _ in SMALL_TALK}


@dataclass(frozen=True)
class ArmResult:
    """What became of one cache.

    label : how it is called.
    replies : to the questions, in their order, and speeds.
    stats : after the conversation and the last question.
    n_read : tokens of the conversation.
    cache_map : what was kept after the conversation.
    """

    label: str
    replies: Replies
    stats: RetentionStats
    n_read: int
    cache_map: Group


def show_conversation(console: Console, conversation: Conversation) -> None:
    """The conversation, turn by turn; noise is only counted."""
    console.print(
        f"A conversation in which [{_FACT}]facts[/] are told, and some of them changed, among sentences that nobody asks"
        f" for and [{_DECOY}]look-alikes[/] that are not true:\n"
    )
    for role, content in conversation.item.turns:
        line = Text(f"{role:>9}: ", style="bold")
        line.append(_shortened(content, conversation) if role == "user" else Text(content))
        console.print(line)
    console.print("\nEvery cache reads it once, without knowing the questions, and is then asked:\n")


def _shortened(message: str, conversation: Conversation) -> Text:
    if message in _SMALL_TALK:
        return Text(message)
    text, n_noise = Text(), 0
    for sentence in re.split(r"(?<=\.)\s", message):
        style = _FACT if sentence in conversation.facts else _DECOY if sentence in conversation.decoys else None
        if style is None:
            n_noise += 1
            continue
        text.append(_noise(n_noise)).append(sentence, style).append(" ")
        n_noise = 0
    return text.append(_noise(n_noise))


def _noise(n: int) -> Text:
    sentences = "sentence" if n == 1 else "sentences"
    return Text(f"({n} {sentences}) " if n else "", style=_NOISE)


def show_results(console: Console, conversation: Conversation, results: Sequence[ArmResult]) -> None:
    """Replies side by side, what each cache took, and a map of what the second one kept."""
    print_whole(console, _reply_table(conversation.item.questions, results))
    print_whole(console, _cost_table(results))
    console.print(f"\nWhat is kept of the conversation ({results[1].label}):")
    console.print(results[1].cache_map)


def _reply_table(questions: Sequence[Question], results: Sequence[ArmResult]) -> Table:
    table = Table("question", "fact", *(result.label for result in results))
    for at, question in enumerate(questions):
        wanted = question.values[0][0]
        replies = [
            Text(_end(reply, wanted), "green" if question.is_right(reply) else "red")
            for reply in (result.replies.texts[at] for result in results)
        ]
        table.add_row(question.text, wanted, *replies)
    table.add_section()
    right = (sum(map(Question.is_right, questions, result.replies.texts)) for result in results)
    table.add_row("right", "", *(f"[bold]{n} of {len(questions)}[/]" for n in right))
    return table


def _end(reply: str, wanted: str) -> str:
    """The words of a reply that stand where the fact should: a reply to several hops names them all before."""
    return " ".join(reply.rstrip(".").split()[-len(wanted.split()) :])


def _cost_table(results: Sequence[ArmResult]) -> Table:
    table = Table("", *(result.label for result in results))
    rows = {
        "cells kept of the conversation": [f"{result.replies.n_cells:,}" for result in results],
        "most cells ever": [f"{result.stats.cells_peak:,}" for result in results],
        "their K and V": [format_bytes(result.stats.cells_peak * result.stats.bytes_cell) for result in results],
        "prefill": [f"{result.n_read / result.replies.read_seconds:,.0f} tok/s" for result in results],
        "decode": [f"{result.replies.n_written / result.replies.write_seconds:,.0f} tok/s" for result in results],
    }
    for label, cells in rows.items():
        table.add_row(label, *cells)
    return table
