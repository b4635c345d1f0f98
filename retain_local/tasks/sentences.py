"""The sentences that the tasks are made of: facts in several wordings, look-alikes that are not true, filler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from ..errors import UsageError
from .words import ADJECTIVES, ADVERBS, JOBS, NAMES, PLACES, PREPOSITIONS, SCENERY, THINGS, VERBS


def draw_thing(rng: Random) -> str:
    return f"{rng.choice(ADJECTIVES)} {rng.choice(THINGS)}"


def draw_place(rng: Random) -> str:
    return f"{rng.choice(ADJECTIVES)} {rng.choice(PLACES)}"


def draw_job(rng: Random) -> str:
    return rng.choice(JOBS)


@dataclass(frozen=True)
class Relation:
    """What can be said of a person: how it is said, asked and answered, and where its values come from."""

    statements: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str
    draw: Callable[[Random], str]

    def state(self, rng: Random, name: str, value: str) -> str:
        return rng.choice(self.statements).format(name=name, value=value)

    def ask(self, rng: Random, name: str) -> str:
        return rng.choice(self.questions).format(name=name)

    def reply(self, name: str, value: str) -> str:
        return self.answer.format(name=name, value=value)


KEEPS = Relation(
    ("{name} keeps the {value}.", "{name} owns the {value}.", "{name} has the {value}."),
    ("What does {name} keep?", "What does {name} own?", "What does {name} have?", "Which thing belongs to {name}?"),
    "{name} keeps the {value}.",
    draw_thing,
)
LIVES = Relation(
    ("{name} lives in the {value}.", "{name} has a home in the {value}.", "{name} sleeps in the {value}."),
    ("Where does {name} live?", "Where does {name} sleep?", "Where is the home of {name}?"),
    "{name} lives in the {value}.",
    draw_place,
)
WORKS = Relation(
    ("{name} works as a {value}.", "{name} is a {value} by trade.", "{name} earns money as a {value}."),
    ("What work does {name} do?", "What is the trade of {name}?", "How does {name} earn money?"),
    "{name} works as a {value}.",
    draw_job,
)
FRIEND = Relation(
    ("The friend of {name} is {value}.", "{name} trusts {value}.", "{name} is a friend of {value}."),
    ("Who is the friend of {name}?", "Whom does {name} trust?"),
    "The friend of {name} is {value}.",
    lambda rng: rng.choice(NAMES),
)
TRAITS = (KEEPS, LIVES, WORKS)  # the relations that end a chain of friends

# each shows before the value comes that it is no fact
DENIALS = (
    "Rumor says that {claim}",
    "It is not true that {claim}",
    "Nobody believes that {claim}",
    "In a dream {claim}",
    "A liar says that {claim}",
)


@dataclass(frozen=True)
class Fact:
    """That ``name`` stands in ``relation`` to ``value``."""

    name: str
    relation: Relation
    value: str

    def statement(self, rng: Random) -> str:
        return self.relation.state(rng, self.name, self.value)

    def denial(self, rng: Random) -> str:
        """The same statement as something that is not so."""
        claim = self.statement(rng)
        return rng.choice(DENIALS).format(claim=claim[0].lower() + claim[1:] if claim.startswith("The") else claim)

    def reply(self) -> str:
        return self.relation.reply(self.name, self.value)


def draw_facts(rng: Random, n: int, relations: tuple[Relation, ...] = TRAITS) -> list[Fact]:
    """``n`` facts about people and relations that occur once each. UsageError: more than there are."""
    if n > len(NAMES) * len(relations):
        raise UsageError(f"there are {len(NAMES) * len(relations)} facts, and {n} were asked for; ask for fewer")
    pairs = [(name, relation) for name in rng.sample(NAMES, min(n, len(NAMES))) for relation in relations]
    rng.shuffle(pairs)
    return [Fact(name, relation, relation.draw(rng)) for name, relation in pairs[:n]]


def draw_decoys(rng: Random, n: int, facts: list[Fact]) -> list[str]:
    """``n`` look-alikes: half say something else of a person and relation that a fact is about."""
    true = {(fact.name, fact.relation.answer): fact.value for fact in facts}
    decoys: list[str] = []
    while len(decoys) < n:
        about = rng.choice(facts) if facts and len(decoys) % 2 == 0 else draw_facts(rng, 1)[0]
        decoy = Fact(about.name, about.relation, about.relation.draw(rng))
        if true.get((decoy.name, decoy.relation.answer)) != decoy.value:
            decoys.append(decoy.denial(rng))
    return decoys


def filler_sentence(rng: Random) -> str:
    """A sentence that no question asks about. It uses the words that facts use."""
    shape = rng.randrange(8)
    noun, other = rng.choice(SCENERY), rng.choice(SCENERY)
    adjective, verb, preposition = rng.choice(ADJECTIVES), rng.choice(VERBS), rng.choice(PREPOSITIONS)
    if shape == 0:
        return f"The {adjective} {noun} {verb} {preposition} the {other}."
    if shape == 1:
        return f"{_article(noun)} {noun} {verb} {preposition} the {adjective} {other}."
    if shape == 2:
        return f"The {noun} {verb} {rng.choice(ADVERBS)}."
    if shape == 3:
        return f"{_article(adjective)} {adjective} {noun} {verb} {rng.choice(ADVERBS)}."
    if shape == 4:
        return f"The {noun} and the {adjective} {other} are {preposition} the {rng.choice(ADJECTIVES)} {noun}."
    if shape == 5:
        return f"{rng.choice(NAMES)} sees the {rng.choice(ADJECTIVES)} {rng.choice(THINGS)}."
    if shape == 6:
        return f"{rng.choice(NAMES)} walks past the {rng.choice(ADJECTIVES)} {rng.choice(PLACES)}."
    return f"{rng.choice(NAMES)} {rng.choice(('sings', 'laughs', 'rests', 'waits'))} {preposition} the {noun}."


def _article(word: str) -> str:
    return "An" if word[0] in "aeiou" else "A"
