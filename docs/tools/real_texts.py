"""Writes the texts that docs/tools/measure_real_model.sh reads: prose, a chat with facts that are asked for later, code.

    python docs/tools/real_texts.py BOOK GSM8K BABI CODE OUT

BOOK is a book as plain text, GSM8K the file test.jsonl of GSM8K, BABI a file of bAbI (qa1_single-supporting-fact_test.txt),
CODE a source file. docs/results.md says which were taken.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

_LENGTH = 12000  # characters of each text
_PASSAGE = 300  # characters of a book around each fact

Story = tuple[list[str], str, str]  # facts, a question, its answer


def prose(book: str) -> str:
    """A run of a book from its middle, whole paragraphs."""
    at = book.index("\n\n", len(book) // 2)
    return book[at : at + _LENGTH].strip() + "\n"


def chat(book: str, problems: list[dict[str, str]], stories: list[Story]) -> str:
    """Turns that tell facts within passages of a book, turns with a problem, and then a question about the facts."""
    rng = Random(0)
    passages = iter(re.split(r"\n\s*\n", book[book.index("\n\n", len(book) // 4) :].strip()))
    turns: list[str] = []
    while sum(map(len, turns)) < _LENGTH:
        facts, question, answer = rng.choice(stories)
        told = "\n".join(f"{next(passages).strip()[:_PASSAGE]} {fact}" for fact in facts)
        problem = rng.choice(problems)
        turns += [
            f"User: Remember what you read here.\n{told}",
            "Assistant: I will.",
            f"User: {problem['question']}",
            f"Assistant: {problem['answer'].split('####')[0].strip()}",
            f"User: {question}",
            f"Assistant: {answer}",
        ]
    return "\n".join(turns) + "\n"


def read_stories(babi: str) -> Iterator[Story]:
    """The facts before the second question of each story of a bAbI file, and that question."""
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
            if questions == 2:
                yield list(facts), question.strip(), answer[0]


def main() -> None:
    book, gsm8k, babi, code, out = map(Path, sys.argv[1:])
    text = book.read_text("utf-8")
    problems = [json.loads(line) for line in gsm8k.read_text("utf-8").splitlines()]
    texts = {
        "prose": prose(text),
        "chat": chat(text, problems, list(read_stories(babi.read_text("utf-8")))),
        "code": code.read_text("utf-8")[:_LENGTH],
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, content in texts.items():
        (out / f"{name}.txt").write_text(content, "utf-8")


if __name__ == "__main__":
    main()
