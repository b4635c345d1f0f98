"""Text for the bundled model: facts and look-alike rumors hidden among filler, and questions about the facts.

A fact is ``Fact: Anna green river.``; a rumor has the same shape, is about somebody else and is never asked. The
document is the first user turn, alone or followed by a question; the answer repeats the fact. Every word and every
punctuation mark is one token of the bundled tokenizer, so lengths can be counted without it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from .words import ADJECTIVES, ADVERBS, NAMES, NOUNS, PREPOSITIONS, VERBS

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

ACKNOWLEDGEMENT = "Understood."

SYSTEM_PROMPTS = ("You are a helpful assistant.", "Answer with the fact.", "Read the text and keep the facts.")

QUESTIONS = (
    "What is the fact about {name}?",
    "What about {name}?",
    "Tell me the fact about {name}.",
    "Which fact is about {name}?",
    "And {name}?",
    "{name}?",
)

TURN_TOKENS = 26  # most that a question and its answer take together with the template around them


@dataclass(frozen=True)
class Sample:
    """A document and the conversation about it.

    Attributes
    ----------
    document : str
        Filler with the facts and rumors among it.
    facts, rumors : tuple of (name, value)
        In the order of the document.
    questions : tuple of (question, answer)
        Asked in this order. A question may come twice.
    """

    document: str
    facts: tuple[tuple[str, str], ...]
    rumors: tuple[tuple[str, str], ...]
    questions: tuple[tuple[str, str], ...]


def count_tokens(text: str) -> int:
    """Number of tokens of a text made of words in this module, template markers included."""
    return len(re.findall(r"<\|\w+\|>| ?\w+|[^\w\s]+\n*|\n", text))


def filler_sentence(rng: Random) -> str:
    """A sentence that no question asks about. It uses the words that the facts use."""
    shape = rng.randrange(5)
    noun, other = rng.choice(NOUNS), rng.choice(NOUNS)
    adjective, verb, preposition = rng.choice(ADJECTIVES), rng.choice(VERBS), rng.choice(PREPOSITIONS)
    if shape == 0:
        return f"The {adjective} {noun} {verb} {preposition} the {other}."
    if shape == 1:
        return f"{_article(noun)} {noun} {verb} {preposition} the {adjective} {other}."
    if shape == 2:
        return f"The {noun} {verb} {rng.choice(ADVERBS)}."
    if shape == 3:
        return f"{_article(adjective)} {adjective} {noun} {verb} {rng.choice(ADVERBS)}."
    return f"The {noun} and the {adjective} {other} are {preposition} the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}."


def _article(word: str) -> str:
    return "An" if word[0] in "aeiou" else "A"


def make_sample(
    rng: Random, document_tokens: int, n_facts: int, n_rumors: int, n_questions: int, every_fact: bool = False
) -> Sample:
    """Draw a sample.

    Parameters
    ----------
    rng : random.Random
    document_tokens : int
        The document is filled up to this many tokens and never longer, unless the facts and rumors alone are.
    n_facts, n_rumors, n_questions : int
    every_fact : bool
        Ask about different facts, in a random order, rather than with replacement. Training draws with replacement:
        otherwise the last question could be answered by elimination.
    """
    names = rng.sample(NAMES, n_facts + n_rumors)
    entries = [(name, f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}") for name in names]
    facts, rumors = entries[:n_facts], entries[n_facts:]
    sentences = [f"Fact: {name} {value}." for name, value in facts]
    sentences += [f"Rumor: {name} {value}." for name, value in rumors]

    used = sum(map(count_tokens, sentences))
    filler = []
    while used < document_tokens:
        sentence = filler_sentence(rng)
        used += count_tokens(sentence)
        if used <= document_tokens:
            filler.append(sentence)
    sentences += filler
    rng.shuffle(sentences)

    asked = rng.sample(facts, n_questions) if every_fact else rng.choices(facts, k=n_questions)
    questions = tuple(
        (rng.choice(QUESTIONS).format(name=name), f"Fact: {name} {value}.") for name, value in asked
    )
    document = " ".join(sentences)
    return Sample(document, _in_order(document, facts), _in_order(document, rumors), questions)


def _in_order(document: str, entries: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(entries, key=lambda entry: document.index(f": {entry[0]} ")))


def demo_sample(seed: int = 0, document_tokens: int = 512, n_facts: int = 8, n_rumors: int = 8) -> Sample:
    """A document of the demo's size with one question for each fact, the same for the same seed."""
    return make_sample(Random(f"demo-{seed}"), document_tokens, n_facts, n_rumors, n_facts, every_fact=True)


def training_sample(rng: Random, length: int) -> list[dict[str, str]]:
    """A whole conversation of at most ``length`` tokens, with the number of everything drawn at random."""
    n_questions = rng.randint(1, max(1, min(6, length // 64)))
    system = rng.choice(SYSTEM_PROMPTS) if length > 128 and rng.random() < 0.3 else None
    room = length - n_questions * TURN_TOKENS - 16 - (16 if system else 0)
    most = max(1, min(10, room // 16))
    n_facts, n_rumors = rng.randint(1 + most // 3, most), rng.randint(0, most)
    # the place of a fact must not tell how far away the question is
    document_tokens = room if rng.random() < 0.7 else rng.randint(room // 2, room)
    sample = make_sample(rng, document_tokens, n_facts, n_rumors, n_questions)
    return messages(sample, acknowledge=rng.random() < 0.5, system=system)


def messages(sample: Sample, acknowledge: bool = True, system: str | None = None) -> list[dict[str, str]]:
    """The conversation about a sample, answers included.

    Parameters
    ----------
    sample : Sample
    acknowledge : bool
        The document is a turn of its own, answered by ``ACKNOWLEDGEMENT``; else the first question follows it in the
        same turn, on a new line.
    system : str, optional
        A system turn before everything.
    """
    turns = [("system", system)] if system else []
    questions = list(sample.questions)
    if acknowledge:
        turns += [("user", sample.document), ("assistant", ACKNOWLEDGEMENT)]
    elif questions:
        question, answer = questions.pop(0)
        turns += [("user", f"{sample.document}\n{question}"), ("assistant", answer)]
    for question, answer in questions:
        turns += [("user", question), ("assistant", answer)]
    return [{"role": role, "content": content} for role, content in turns]


def render(turns: list[dict[str, str]], add_generation_prompt: bool = False) -> str:
    """What ``CHAT_TEMPLATE`` makes of the turns, without a template engine."""
    text = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns)
    return text + "<|im_start|>assistant\n" * add_generation_prompt
