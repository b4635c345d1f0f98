"""Writes the texts and questions that docs/tools/measure_real_model.sh reads.

    python docs/tools/real_texts.py BOOK GSM8K BABI NEWS RULER OUT

BOOK is a book as plain text, GSM8K the file test.jsonl of GSM8K, BABI a file of bAbI (qa1_single-supporting-fact_test.txt), NEWS
LongBench's multi_news.jsonl, RULER a file of RULER (niah_multikey_3). Code is taken from the Python that runs this.

OUT gets prose, chat, unseen (other chats), code, news and ruler as .txt, and babi-CHARACTERS.jsonl, in the form of RULER's files:
questions about one of two facts that stand within so many characters of the book. keys-N.jsonl is RULER with N keys in a text.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tarfile
import zipfile
from collections import deque
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

_LENGTH = 60_000  # characters of each text, four windows of 4,096 tokens and less
_PASSAGE = 300  # characters of a book around each fact of a chat
_LATER = 3  # stories of a chat that come between facts and the question about them
_QUESTIONS = 100
_LENGTHS = (300, 600, 1200, 2400)  # characters of the book that facts stand in
_KEYS = (4, 8, 16)  # of a question of RULER, which has 51
_KEY_LENGTH = 13  # characters of a key that are asked for: not all of its 36 fit the 32 tokens of a reply
_MODULES = (argparse, tarfile, zipfile)

Story = tuple[list[str], str, str]  # facts, a question, its answer


def prose(book: str) -> str:
    """A run of a book from its middle, whole paragraphs."""
    at = book.index("\n\n", len(book) // 2)
    return book[at : at + _LENGTH].strip() + "\n"


def paragraphs(book: str, rng: Random) -> Iterator[str]:
    """Paragraphs of the second quarter of a book, in any order, each on one line."""
    found = re.split(r"\n\s*\n", book[len(book) // 4 : len(book) // 2].strip())
    rng.shuffle(found)
    return (" ".join(paragraph.split()) for paragraph in found)


def chat(book: str, problems: list[dict[str, str]], stories: list[Story], seed: int) -> str:
    """Turns that tell facts within passages of a book, turns with a problem, and questions about facts of some turns ago."""
    rng = Random(seed)
    passages = paragraphs(book, rng)
    told: deque[tuple[int, Story]] = deque()
    turns: list[str] = []
    for number in count(1):
        if sum(map(len, turns)) >= _LENGTH:
            return "\n".join(turns) + "\n"
        story = rng.choice(stories)
        told.append((number, story))
        facts = "\n".join(f"{next(passages)[:_PASSAGE]} {fact}" for fact in story[0])
        problem = rng.choice(problems)
        turns += [
            f"User: Remember what you read in story {number}.\n{facts}",
            "Assistant: I will.",
            f"User: {problem['question']}",
            f"Assistant: {problem['answer'].split('####')[0].strip()}",
        ]
        if len(told) > _LATER:
            asked, (_, question, answer) = told.popleft()
            turns += [f"User: In story {asked}: {question}", f"Assistant: {answer}"]
    raise AssertionError


def code() -> str:
    """Modules of Python's library, one after the other."""
    sources = [Path(str(module.__file__)).read_text("utf-8") for module in _MODULES]
    return "\n".join(source[: _LENGTH // len(sources)] for source in sources)


def read_stories(babi: str, n_question: int) -> Iterator[Story]:
    """The facts before the n-th question of each story of a bAbI file, and that question."""
    facts: list[str] = []
    questions = 0
    for line in babi.splitlines():
        number, text = line.split(" ", 1)
        if number == "1":
            facts, questions = [], 0
        question, *answer = re.split(r"[\t|]", text)
        if not answer:
            facts.append(text)
        else:
            questions += 1
            if questions == n_question:
                yield list(facts), question.strip(), answer[0]


def questions(book: str, stories: list[Story], length: int) -> Iterator[dict[str, object]]:
    """Lines as RULER's: the facts of a story within `length` characters of a book, and the question."""
    rng = Random(length)
    for facts, question, answer in stories[:_QUESTIONS]:
        at = rng.randrange(len(book) // 4, len(book) // 2)
        sentences = re.split(r"(?<=[.!?]) ", " ".join(book[at : at + length].split()))
        places = sorted(rng.randrange(len(sentences) + 1) for _ in facts)
        for place, fact in reversed(list(zip(places, facts))):
            sentences.insert(place, fact)
        who = question.removeprefix("Where is ").removesuffix("?").strip()
        yield {
            "input": f"{' '.join(sentences)}\n\n{question}",
            "outputs": [answer],
            "answer_prefix": f"{who} is in the",
        }


def with_fewer_keys(item: dict[str, Any], n_keys: int) -> dict[str, object]:
    """RULER's question about a key among others, with so many keys in place of all."""
    first, *keys, question = item["input"].splitlines()
    asked = next(line for line in keys if item["outputs"][0] in line)
    others = [line for line in keys if line is not asked][: n_keys - 1]
    others.insert(min(keys.index(asked) * n_keys // len(keys), len(others)), asked)
    question, prefix = question.split("? ")
    answer = item["outputs"][0][:_KEY_LENGTH]
    return {"input": "\n".join([first, *others, f"{question}?"]), "outputs": [answer], "answer_prefix": prefix}


def main() -> None:
    *files, out = map(Path, sys.argv[1:])
    book, gsm8k, babi, news, ruler = (file.read_text("utf-8") for file in files)
    problems = [json.loads(line) for line in gsm8k.splitlines()]
    stories = list(read_stories(babi, 2))
    articles = [json.loads(line) for line in news.splitlines()]
    needles = [json.loads(line) for line in ruler.splitlines()]
    texts = {
        "prose": prose(book),
        "chat": chat(book, problems, stories, seed=0),
        "unseen": chat(book, problems, stories, seed=1),
        "code": code(),
        "news": "\n\n".join(f"{one['context']}\n\nSummary:\n{one['answers'][0]}" for one in articles)[:_LENGTH],
        "ruler": "\n\n".join(f"{one['input']} {one['outputs'][0]}." for one in needles)[:_LENGTH],
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (out / f"{name}.txt").write_text(text, "utf-8")
    for length in _LENGTHS:
        lines = (json.dumps(line) + "\n" for line in questions(book, list(read_stories(babi, 1)), length))
        (out / f"babi-{length}.jsonl").write_text("".join(lines), "utf-8")
    for n_keys in _KEYS:
        lines = (json.dumps(with_fewer_keys(item, n_keys)) + "\n" for item in needles[:_QUESTIONS])
        (out / f"keys-{n_keys}.jsonl").write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    main()
