"""The demo's conversation: facts, chains of facts and facts that change, among noise and look-alikes."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from ..tasks import elements as e
from ..tasks.compose import compose
from ..tasks.item import Item
from ..tasks.sentences import TRAITS, Fact
from ..tasks.words import NAMES

N_FACTS, N_CHANGING, N_DECOYS, N_TURNS = 4, 2, 12, 6
HOPS = (2, 2, 3)  # of each chain


@dataclass(frozen=True)
class Conversation:
    """An item, and which of its sentences it is about.

    facts : sentences that the questions ask for.
    decoys : look-alikes that they do not.
    """

    item: Item
    facts: frozenset[str]
    decoys: frozenset[str]


def make_conversation(seed: int, n_tokens: int) -> Conversation:
    """The conversation of a seed, of about ``n_tokens`` tokens."""
    rng = Random(f"demo-{seed}")
    names = rng.sample(NAMES, len(NAMES))
    facts = [Fact(names.pop(), relation, relation.draw(rng)) for relation in rng.choices(TRAITS, k=N_FACTS)]
    asked = e.facts(rng, facts)
    asked += [e.chain(rng, [names.pop() for _ in range(n_hops)], n_traits=1) for n_hops in HOPS]
    asked += [e.changing_fact(rng, names.pop(), rng.choice(TRAITS), n_changes=1) for _ in range(N_CHANGING)]
    decoys = e.decoys(rng, N_DECOYS, facts)
    item = compose(rng, asked + decoys, n_tokens, N_TURNS)
    return Conversation(item, _sentences(asked), _sentences(decoys))


def _sentences(elements: list[e.Element]) -> frozenset[str]:
    return frozenset(sentence for element in elements for sentence in element.sentences)
