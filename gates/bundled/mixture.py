"""Conversations that the bundled model is trained on: everything that the tasks ask for, mixed in one text.

Evaluation draws its items from `retain_local.tasks` by name and seed; training draws from generators seeded otherwise, so
that no text is seen by both.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from ...tasks import elements as e
from ...tasks.compose import INSTRUCTION, Element, compose
from ...tasks.item import Question, Turn, count_words
from ...tasks.sentences import TRAITS, Fact
from ...tasks.words import NAMES

# how often each kind is drawn, when all are
KINDS = {"fact": 5.0, "chain": 3.0, "change": 2.0, "count": 1.0, "message": 0.7, "code": 1.0, "decoy": 3.5}
MOST_DECOYS = 12  # of one text, so that evaluation can show what more of them do than in training
TURN_MARKERS = 5  # tokens that the chat template puts around a message
ANSWER_ROOM = 34  # tokens set aside for a question and its answer
MOST_QUESTIONS = 16
EVERY_KIND_FROM = 256  # shorter conversations hold facts and decoys alone


@dataclass(frozen=True)
class Conversation:
    """Turns, and for each the kind of question that it answers, or None."""

    turns: tuple[Turn, ...]
    kinds: tuple[str | None, ...]

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": role, "content": content} for role, content in self.turns]


def training_conversation(rng: Random, length: int) -> Conversation:
    """A conversation of at most about ``length`` tokens, with the number of everything drawn at random."""
    n_parts = 2 if length >= 2 * EVERY_KIND_FROM and rng.random() < 0.25 else 1
    names, events = rng.sample(NAMES, len(NAMES)), rng.sample(e.EVENTS, len(e.EVENTS))
    turns: list[Turn] = []
    kinds: list[str | None] = []
    known: list[tuple[Question, str]] = []
    for part in range(n_parts):
        room = length // n_parts
        n_asked = rng.randint(1, max(1, min(MOST_QUESTIONS, room // 40)))
        n_turns = rng.randint(2, min(8, room // 64)) if room >= 192 and rng.random() < 0.4 else 1
        instruction = INSTRUCTION if part == 0 and room >= 192 and rng.random() < 0.7 else ""
        n_tokens = max(32, room - n_asked * ANSWER_ROOM - n_turns * 14 - count_words(instruction))
        if rng.random() < 0.3:  # the place of a fact must not tell how far away the question is
            n_tokens = rng.randint(n_tokens // 2, n_tokens)
        drawn = _draw(rng, names, events, n_tokens, every_kind=room >= EVERY_KIND_FROM)
        item = compose(rng, [element for element, _ in drawn], n_tokens, n_turns, instruction)
        turns += item.turns
        kinds += [None] * len(item.turns)
        known += [(question, kind) for element, kind in drawn for question in element.questions]
        # with replacement: otherwise the last question could be answered by elimination
        for question, kind in _fit(rng.choices(known, k=n_asked), n_asked * ANSWER_ROOM):
            turns += [("user", question.text), ("assistant", question.answer)]
            kinds += [None, kind]
    return Conversation(tuple(turns), tuple(kinds))


def _fit(asked: list[tuple[Question, str]], n_tokens: int) -> list[tuple[Question, str]]:
    """As many of the questions, from the first, as their tokens leave room for; at least one."""
    kept: list[tuple[Question, str]] = []
    for question, kind in asked:
        n_tokens -= count_words(question.text) + count_words(question.answer) + 2 * TURN_MARKERS
        if kept and n_tokens < 0:
            break
        kept.append((question, kind))
    return kept


def _draw(
    rng: Random, names: list[str], events: list[tuple[str, str, str]], n_tokens: int, every_kind: bool
) -> list[tuple[Element, str]]:
    """Elements that take some share of the tokens; names and events that they use are taken from the lists."""
    room = n_tokens * rng.uniform(0.1, 0.8)
    # many texts are about one thing for the most part
    focus = rng.choice([kind for kind in KINDS if kind != "decoy"]) if rng.random() < 0.5 else None
    facts: list[Fact] = []
    drawn: list[tuple[Element, str]] = []
    used = n_decoys = 0
    while used < room and len(names) >= 4:
        kind = _draw_kind(rng, focus, every_kind) if drawn else "fact"
        if kind == "decoy":
            made = e.decoys(rng, min(rng.randint(1, 3), MOST_DECOYS - n_decoys), facts)
            n_decoys += len(made)
        else:
            made = _make(rng, kind, names, events, facts)
        size = sum(count_words(sentence) for element in made for sentence in element.sentences)
        if drawn and used + size > n_tokens:
            break
        used += size
        drawn += [(element, kind) for element in made]
    return drawn


def _draw_kind(rng: Random, focus: str | None, every_kind: bool) -> str:
    if not every_kind:
        return rng.choice(("fact", "fact", "decoy"))
    if focus and rng.random() < 0.7:
        return focus
    return rng.choices(list(KINDS), list(KINDS.values()))[0]


def _make(
    rng: Random, kind: str, names: list[str], events: list[tuple[str, str, str]], facts: list[Fact]
) -> list[Element]:
    if kind == "fact":
        name = names.pop()
        about = [Fact(name, relation, relation.draw(rng)) for relation in rng.sample(TRAITS, rng.choice((1, 1, 2, 3)))]
        facts += about
        made = e.facts(rng, about)
        if len(facts) > 2 and rng.random() < 0.3:
            made.append(Element((), (e.ask_several(rng, rng.sample(facts, rng.choice((2, 2, 3)))),)))
        return made
    if kind == "chain":
        return [e.chain(rng, [names.pop() for _ in range(rng.choice((2, 2, 3, 3)))], n_traits=rng.randint(1, 2))]
    if kind == "change":
        return [e.changing_fact(rng, names.pop(), rng.choice(TRAITS), rng.choice((0, 1, 1, 2)))]
    if kind == "count":
        return [e.counted_event(rng, events.pop(), most=6)] if events else []
    if kind == "message":
        return [e.message(rng, names.pop(), n_words=rng.randint(4, 10))]
    return e.codes(rng, rng.randint(1, 6))
