"""Where a budget changes the predictions most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..divergence.texts import AuditText
from .result import BudgetAudit

APART = 32  # tokens between two places of one text, so that one bad passage is not all that is shown
BEFORE = 48  # characters shown before a token


@dataclass(frozen=True)
class Place:
    """A token whose prediction changed.

    file, line : where it is; text, token : the number of the text, and of the token in it.
    kl : of its prediction, in nats.
    before : the text before it; came : the token that came.
    full, cache : the tokens that the full cache and this one held likeliest.
    """

    file: str
    line: int
    text: int
    token: int
    kl: float
    before: str
    came: str
    full: str
    cache: str


def worst_places(budget: BudgetAudit, count: int, piece: Callable[[int], str]) -> list[Place]:
    """The places with the highest KL over all texts, `APART` tokens from each other, the worst first.

    Parameters
    ----------
    piece : the text of a token of the vocabulary.
    """
    found: list[tuple[float, int, int]] = []
    for number, one in enumerate(budget.divergences):
        found += [(float(one.kl[entry]), number, entry) for entry in _peaks(one.kl, count)]
    found.sort(key=lambda item: (-item[0], *item[1:]))
    return [_place(budget, number, entry, piece) for _, number, entry in found[:count]]


def _peaks(kl: np.ndarray, count: int) -> list[int]:
    left = kl.copy()
    peaks: list[int] = []
    while len(peaks) < count and (entry := int(left.argmax())) not in peaks and left[entry] > 0:
        peaks.append(entry)
        left[max(0, entry - APART + 1) : entry + APART] = 0
    return peaks


def _place(budget: BudgetAudit, number: int, entry: int, piece: Callable[[int], str]) -> Place:
    text, one, token = budget.texts[number], budget.divergences[number], entry + 1
    return Place(
        file=text.file,
        line=text.line_of(token),
        text=number,
        token=token,
        kl=float(one.kl[entry]),
        before=_text_before(text, token),
        came=text.pieces[token],
        full=piece(int(one.full.top[entry])),
        cache=piece(int(one.cache.top[entry])),
    )


def _text_before(text: AuditText, token: int) -> str:
    parts, length = [], 0
    while token > 0 and length < BEFORE:
        token -= 1
        parts.append(text.pieces[token])
        length += len(parts[-1])
    return "".join(reversed(parts))[-BEFORE:]
