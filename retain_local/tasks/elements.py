"""The things that a task can hide in a text, each with its questions."""

from __future__ import annotations

from random import Random

from ..errors import UsageError
from .compose import Element
from .item import Question
from .sentences import FRIEND, TRAITS, Fact, Relation, draw_decoys
from .words import ADJECTIVES, NUMBERS, SCENERY, THINGS

CHANGES = ("Now {claim}", "From today on {claim}", "Since this morning {claim}")

# what happens, how it is asked, and how it is answered
EVENTS = (
    ("The bell rings{how}.", "How many times does the bell ring?", "The bell rings {count}."),
    ("The horn sounds{how}.", "How many times does the horn sound?", "The horn sounds {count}."),
    ("The drum beats{how}.", "How many times does the drum beat?", "The drum beats {count}."),
    ("The crow calls{how}.", "How many times does the crow call?", "The crow calls {count}."),
)
EVENT_MANNERS = ("", " again", " today", " now", " slowly")


def ask(rng: Random, fact: Fact) -> Question:
    """The question that a fact answers."""
    return Question(fact.relation.ask(rng, fact.name), fact.reply(), ((fact.value,),))


def ask_several(rng: Random, facts: list[Fact]) -> Question:
    """One question about several facts."""
    return Question(
        " ".join(fact.relation.ask(rng, fact.name) for fact in facts),
        " ".join(fact.reply() for fact in facts),
        tuple((fact.value,) for fact in facts),
    )


def facts(rng: Random, about: list[Fact]) -> list[Element]:
    """The facts, with a question about each."""
    return [Element((fact.statement(rng),), (ask(rng, fact),)) for fact in about]


def decoys(rng: Random, n: int, about: list[Fact]) -> list[Element]:
    """``n`` look-alikes that are never asked for; half contradict one of the facts."""
    return [Element((sentence,), is_noise=True) for sentence in draw_decoys(rng, n, about)]


def chain(rng: Random, names: list[str], n_traits: int) -> Element:
    """A chain of friends and ``n_traits`` facts about the last one, asked for by way of the first.

    The reply goes along the chain. ``len(names)`` is the number of hops; one name is a plain fact.
    """
    links = [Fact(name, FRIEND, friend) for name, friend in zip(names, names[1:])]
    traits = [Fact(names[-1], relation, relation.draw(rng)) for relation in rng.sample(TRAITS, n_traits)]
    sentences = [fact.statement(rng) for fact in links + traits]
    rng.shuffle(sentences)
    subject = "the friend of " * len(links) + names[0]
    questions = tuple(
        Question(
            trait.relation.ask(rng, subject),
            " ".join(fact.reply() for fact in [*links, trait]),
            ((trait.value,),),
        )
        for trait in traits
    )
    return Element(tuple(sentences), questions)


def changing_fact(rng: Random, name: str, relation: Relation, n_changes: int) -> Element:
    """A fact that is said and then changed; the last version is asked for."""
    versions = [Fact(name, relation, relation.draw(rng)) for _ in range(n_changes + 1)]
    changes = (rng.choice(CHANGES).format(claim=fact.statement(rng)) for fact in versions[1:])
    return Element((versions[0].statement(rng), *changes), (ask(rng, versions[-1]),))


def counted_event(rng: Random, event: tuple[str, str, str], most: int) -> Element:
    """An event of `EVENTS` that happens 1 to ``most`` times."""
    happens, question, answer = event
    n = rng.randint(1, most)
    sentences = tuple(happens.format(how=rng.choice(EVENT_MANNERS)) for _ in range(n))
    count = f"{NUMBERS[n]} {'time' if n == 1 else 'times'}"
    wordings = (count, f"{n} time", f"{n} times")
    return Element(sentences, (Question(question, answer.format(count=count), (wordings,)),))


def message(rng: Random, name: str, n_words: int) -> Element:
    """A message of ``n_words`` random words, to be repeated exactly."""
    words = " ".join(rng.choice((ADJECTIVES, THINGS, SCENERY)[at % 3]) for at in range(n_words))
    sentence = f'{name} writes: "{words}".'
    return Element((sentence,), (Question(f"What does {name} write?", sentence, ((words,),)),))


def codes(rng: Random, n: int) -> list[Element]:
    """``n`` keys that mean nothing, each with three digits to be looked up. UsageError: more than there are."""
    every = [f"{adjective} {thing}" for adjective in ADJECTIVES for thing in THINGS]
    if n > len(every):
        raise UsageError(f"there are {len(every)} keys, and {n} were asked for; ask for fewer facts")
    keys = rng.sample(every, n)
    made = []
    for key in keys:
        code = " ".join(str(rng.randrange(10)) for _ in range(3))
        sentence = f"The code of the {key} is {code}."
        made.append(Element((sentence,), (Question(f"What is the code of the {key}?", sentence, ((code,),)),)))
    return made
