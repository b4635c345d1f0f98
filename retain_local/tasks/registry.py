"""The tasks by name, with the numbers that make each easy or hard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from ..errors import UsageError
from . import elements as e
from .compose import Element, compose
from .item import Item, count_words
from .sentences import draw_facts
from .words import NAMES


@dataclass(frozen=True)
class Parameters:
    """What a task may be told. Each task reads what concerns it.

    Attributes
    ----------
    n_tokens : int
        Length of the text.
    n_facts, n_decoys : int
        Facts that are asked for; look-alikes that are not.
    n_asked : int
        Facts that one question asks for.
    n_hops : int
        Facts that one answer needs, one after the other.
    n_changes : int
        Most changes of one fact.
    n_turns : int
        Messages that the text is split into.
    depth : int or None
        How much of the text, in percent, comes before what is asked for. None: it is scattered over the text.

    Raises
    ------
    UsageError : one of them is out of range, on its own or beside another.
    """

    n_tokens: int = 768
    n_facts: int = 8
    n_decoys: int = 8
    n_asked: int = 1
    n_hops: int = 1
    n_changes: int = 0
    n_turns: int = 1
    depth: int | None = None

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not least <= value < _MOST:
                limit = f"at least {least}" if value < least else f"less than {_MOST}"
                raise UsageError(f"{name.removeprefix('n_')} is {value}; it must be {limit}")
        if self.n_asked > self.n_facts:
            raise UsageError(f"one question cannot ask for {self.n_asked} of {self.n_facts} facts")
        if self.depth is not None and not 0 <= self.depth <= 100:
            raise UsageError(f"depth is {self.depth}; it must be 0 to 100")


_MOST = 2**24
_LEAST = {"n_tokens": 1, "n_facts": 1, "n_decoys": 0, "n_asked": 1, "n_hops": 1, "n_changes": 0, "n_turns": 1}

Maker = Callable[[Random, Parameters], list[Element]]

_EVERY_TASK = ("n_tokens", "n_turns", "depth")
_READS: dict[Maker, tuple[str, ...]] = {}


def reads(*parameters: str) -> Callable[[Maker], Maker]:
    """A decorator: the parameters that make a difference to a maker, besides those of every task."""

    def decorate(make: Maker) -> Maker:
        _READS[make] = parameters
        return make

    return decorate


@reads("n_facts", "n_decoys", "n_asked")
def make_facts(rng: Random, p: Parameters) -> list[Element]:
    """Facts among look-alikes; a question is about ``n_asked`` of them."""
    facts = draw_facts(rng, p.n_facts)
    decoys = e.decoys(rng, p.n_decoys, facts)
    if p.n_asked == 1:
        return e.facts(rng, facts) + decoys
    questions = tuple(e.ask_several(rng, rng.sample(facts, p.n_asked)) for _ in facts)
    return [Element((fact.statement(rng),)) for fact in facts] + decoys + [Element((), questions)]


@reads("n_facts", "n_decoys", "n_hops")
def make_hops(rng: Random, p: Parameters) -> list[Element]:
    """Chains of friends; the last one's traits are asked for by way of the first."""
    n_chains = max(1, p.n_facts // 2)
    _check_names(n_chains * p.n_hops, f"{n_chains} chains of {p.n_hops} hops")
    names = rng.sample(NAMES, n_chains * p.n_hops)
    chains = [e.chain(rng, names[at::n_chains], n_traits=2) for at in range(n_chains)]
    return chains + e.decoys(rng, p.n_decoys, [])


@reads("n_facts", "n_decoys", "n_changes")
def make_changes(rng: Random, p: Parameters) -> list[Element]:
    """Facts of which every second one changes."""
    facts = draw_facts(rng, p.n_facts)
    made = [
        e.changing_fact(rng, fact.name, fact.relation, rng.randint(1, p.n_changes) if at % 2 and p.n_changes else 0)
        for at, fact in enumerate(facts)
    ]
    return made + e.decoys(rng, p.n_decoys, [])


@reads("n_facts", "n_decoys", "n_changes")
def make_superseded(rng: Random, p: Parameters) -> list[Element]:
    """Facts that change ``n_changes`` times each: all that was said before the last time looks like the answer."""
    facts = draw_facts(rng, p.n_facts)
    made = [e.changing_fact(rng, fact.name, fact.relation, p.n_changes) for fact in facts]
    return made + e.decoys(rng, p.n_decoys, [])


@reads()
def make_counting(rng: Random, p: Parameters) -> list[Element]:
    """Events to be counted, up to six of a kind."""
    return [e.counted_event(rng, event, most=6) for event in e.EVENTS]


@reads("n_facts")
def make_copying(rng: Random, p: Parameters) -> list[Element]:
    """Messages of eight words to be repeated."""
    n_messages = max(1, p.n_facts // 2)
    _check_names(n_messages, f"{n_messages} messages")
    return [e.message(rng, name, n_words=8) for name in rng.sample(NAMES, n_messages)]


@reads("n_facts")
def make_lookup(rng: Random, p: Parameters) -> list[Element]:
    """Codes of things; any of them may be asked for, and nothing tells which."""
    return e.codes(rng, p.n_facts)


def _check_names(n: int, what: str) -> None:
    if n > len(NAMES):
        raise UsageError(f"{what} need {n} names, and there are {len(NAMES)}; ask for fewer facts or hops")


@dataclass(frozen=True)
class Task:
    """A way to make items, and its usual parameters."""

    name: str
    title: str
    make: Maker
    parameters: Parameters

    @property
    def reads(self) -> tuple[str, ...]:
        """The parameters that make a difference to it."""
        return _EVERY_TASK + _READS[self.make]

    def item(self, seed: int | str, count: Callable[[str], int] = count_words, **changes: int) -> Item:
        """The item of a seed; ``changes`` are fields of `Parameters`. Other seeds, other items.

        Raises
        ------
        UsageError : parameters that are out of range.
        """
        p = replace(self.parameters, **changes)
        rng = Random(f"{self.name}-{seed}")
        return compose(rng, self.make(rng, p), p.n_tokens, p.n_turns, count=count, depth=p.depth)


_TASKS = (
    Task("single", "single fact", make_facts, Parameters()),
    Task("several", "several facts", make_facts, Parameters(n_asked=3)),
    Task("hops2", "two hops", make_hops, Parameters(n_hops=2)),
    Task("hops3", "three hops", make_hops, Parameters(n_hops=3)),
    Task("changes", "changed facts over turns", make_changes, Parameters(n_changes=2, n_turns=8)),
    Task("superseded", "superseded facts", make_superseded, Parameters(n_changes=6, n_turns=8)),
    Task("decoys", "many decoys", make_facts, Parameters(n_decoys=48)),
    Task("counting", "counting", make_counting, Parameters()),
    Task("copying", "copying", make_copying, Parameters()),
    Task("lookup", "random keys", make_lookup, Parameters(n_facts=48, n_decoys=0)),
)

TASKS = {task.name: task for task in _TASKS}
