"""Make a conversation out of what must be said, at random places among filler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from .item import ACKNOWLEDGEMENT, Item, Question, Turn, count_words
from .sentences import filler_sentence

INSTRUCTION = "Read the text and answer the questions about it in one sentence each."

SMALL_TALK = (
    ("Hello.", "Hello. How can I help you?"),
    ("How are you?", "I am well, thank you."),
    ("Thank you.", "You are welcome."),
    ("Good morning.", "Good morning."),
    ("Are you still there?", "Yes, I am here."),
    ("Please wait a moment.", "I will wait."),
)


@dataclass(frozen=True)
class Element:
    """Sentences that must come in this order, anything in between, and the questions that they answer.

    is_noise : no question is about it, so that it stays scattered where what is asked for has a place of its own.
    """

    sentences: tuple[str, ...]
    questions: tuple[Question, ...] = ()
    is_noise: bool = False


def compose(
    rng: Random,
    elements: Sequence[Element],
    n_tokens: int,
    n_turns: int = 1,
    instruction: str = INSTRUCTION,
    count: Callable[[str], int] = count_words,
    depth: int | None = None,
) -> Item:
    """Scatter the elements over a text, fill it up, and split it into turns.

    Parameters
    ----------
    rng : random.Random
    elements : sequence of Element
    n_tokens : int
        The text is filled up to this many tokens and not further. It is longer only if the elements alone are.
    n_turns : int
        1: the text is one message. More: messages of the user of different lengths, each acknowledged, with small talk
        between some of them.
    instruction : str
        Begins the first message; may be empty.
    count : callable
        Number of tokens of a text.
    depth : int or None
        How much of the text, in percent, comes before the elements that are no noise. None: they are scattered.

    Returns
    -------
    Item
        With the questions of all elements in random order.
    """
    is_placed = [depth is not None and not element.is_noise for element in elements]
    placed = _interleave(rng, [element for element, here in zip(elements, is_placed) if here])
    scattered = _interleave(rng, [element for element, here in zip(elements, is_placed) if not here])
    room = n_tokens - sum(map(count, placed + scattered))
    filler = []
    while room > 0:
        sentence = filler_sentence(rng)
        room -= count(sentence)
        if room >= 0:
            filler.append(sentence)
    text = _merge(rng, scattered, filler)
    at = len(text) * (depth or 0) // 100
    text[at:at] = placed
    questions = [question for element in elements for question in element.questions]
    rng.shuffle(questions)
    return Item(tuple(_turns(rng, text, n_turns, instruction)), tuple(questions))


def _interleave(rng: Random, elements: Sequence[Element]) -> list[str]:
    """All sentences, each element's in its order."""
    order = [at for at, element in enumerate(elements) for _ in element.sentences]
    rng.shuffle(order)
    left = [iter(element.sentences) for element in elements]
    return [next(left[at]) for at in order]


def _merge(rng: Random, first: list[str], second: list[str]) -> list[str]:
    return _interleave(rng, (Element(tuple(first)), Element(tuple(second))))


def _turns(rng: Random, text: list[str], n_turns: int, instruction: str) -> list[Turn]:
    n_turns = min(n_turns, len(text))
    cuts = [0, *sorted(rng.sample(range(1, len(text)), n_turns - 1)), len(text)]
    turns: list[Turn] = []
    for start, stop in zip(cuts, cuts[1:]):
        message = " ".join(text[start:stop])
        if not turns and instruction:
            message = f"{instruction}\n{message}"
        elif turns and rng.random() < 0.3:
            said, reply = rng.choice(SMALL_TALK)
            turns += [("user", said), ("assistant", reply)]
        turns += [("user", message), ("assistant", ACKNOWLEDGEMENT)]
    return turns
