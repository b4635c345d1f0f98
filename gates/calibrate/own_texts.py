"""The texts that calibration reads where none are given: prose, chats, code and lists, in a model's tokens.

Prose and some of the chats are written out in `texts/`. Other chats hide facts and ask for them later, by the tasks of
`retain_local.tasks`; code is this package's own; lists, tables and records are drawn from a seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from ...errors import RetainError
from ...prompts.chat_format import ChatFormat
from ...prompts.completion import template_of
from ...tasks import TASKS
from ...tasks.words import ADJECTIVES, JOBS, NAMES, PLACES, THINGS, VERBS

if TYPE_CHECKING:
    from ...llama import Llama

FOLDER = Path(__file__).with_name("texts")
_PACKAGE = Path(__file__).parents[2]
_PROSE = FOLDER / "prose.txt", Path(__file__).parents[1] / "verify.txt"
_CODE = (
    "options/budget.py", "files.py", "terminal/progress.py", "chat/session_file.py", "gates/checkpoint/unpickle.py",
    "tasks/registry.py", "prompts/control_tokens.py", "evaluation/benchmarks/metrics.py", "decoding/history.py",
    "report/style.py", "models/download.py", "chat/slash_commands.py",
)  # fmt: skip
_BREAK = "***\n"

Chat = list[dict[str, str]]


def own_streams(llm: Llama, n_most: int) -> dict[str, list[int]]:
    """The tokens of each kind of text, at most n_most of each. Kinds that the vocabulary cannot express are left out."""
    makers: dict[str, Callable[[], Iterator[list[int]]]] = {
        "prose": lambda: _plain(llm, (path.read_text("utf-8") for path in _PROSE)),
        "chat": lambda: _chats(llm),
        "code": lambda: _plain(llm, ((_PACKAGE / name).read_text("utf-8") for name in _CODE)),
        "lists": lambda: _plain(llm, _lists(Random(0))),
    }
    streams = {}
    for kind, make in makers.items():
        tokens: list[int] = []
        try:
            for more in make():
                tokens += more
                if len(tokens) >= n_most:
                    break
        except RetainError:  # the bundled model knows the words of its own conversations alone
            continue
        streams[kind] = tokens[:n_most]
    return streams


def _plain(llm: Llama, texts: Iterator[str]) -> Iterator[list[int]]:
    for text in texts:
        yield llm.tokenize(text.replace(_BREAK, "").encode(), add_bos=False, special=False)


def _chats(llm: Llama) -> Iterator[list[int]]:
    """Conversations in the model's own template: written ones first, then facts that are told and asked for."""
    written = _written_chats() if _knows(llm, "Hello! 1 + 1 = 2?") else iter(())
    chat_format = ChatFormat(llm, template_of(llm.metadata))
    rng = Random(0)
    for chat in chain(written, iter(lambda: _fact_chat(rng), [])):
        yield _render(llm, chat_format, _fact_chat(rng))
        yield _render(llm, chat_format, chat)


def _knows(llm: Llama, text: str) -> bool:
    try:
        return bool(llm.tokenize(text.encode(), add_bos=False, special=False))
    except RetainError:
        return False


def _written_chats() -> Iterator[Chat]:
    for chat in (FOLDER / "chats.txt").read_text("utf-8").split(_BREAK):
        messages: Chat = []
        for line in chat.splitlines(keepends=True):
            for role in ("user", "assistant"):
                mark = f"{role.capitalize()}: "
                if line.startswith(mark):
                    messages.append({"role": role, "content": line.removeprefix(mark)})
                    break
            else:
                messages[-1]["content"] += line
        yield [{**message, "content": message["content"].strip()} for message in messages]


def _fact_chat(rng: Random) -> Chat:
    task = TASKS[rng.choice(("single", "several", "changes", "hops2"))]
    item = task.item(rng.randrange(1 << 30), n_tokens=rng.choice((96, 192, 384)))
    messages = list(item.messages)
    for question in rng.sample(item.questions, min(2, len(item.questions))):
        messages += [{"role": "user", "content": question.text}, {"role": "assistant", "content": question.answer}]
    return messages


def _render(llm: Llama, chat_format: ChatFormat, messages: Chat) -> list[int]:
    *before, last = messages
    hidden, marks = llm.prompt_tokenizer.hide(before, chat_format.render)
    text = chat_format.render(hidden)
    tokens = llm.prompt_tokenizer.inside(text, marks)
    bos = llm.token_bos()
    if tokens[:1] == [bos]:
        tokens = tokens[1:]
    reply = llm.tokenize(f"{last['content']}\n".encode(), add_bos=False, special=False)
    return [*tokens, *reply]


def _lists(rng: Random) -> Iterator[str]:
    makers = (_bullets, _table, _records, _steps)
    while True:
        yield makers[rng.randrange(len(makers))](rng) + "\n\n"


def _bullets(rng: Random) -> str:
    return "\n".join(f"- {rng.choice(ADJECTIVES)} {rng.choice(THINGS)}: {rng.randrange(1, 500)}" for _ in range(12))


def _table(rng: Random) -> str:
    rows = [
        f"| {name} | {rng.choice(JOBS)} | {rng.choice(PLACES)} | {rng.randrange(18, 80)} |"
        for name in rng.sample(NAMES, 10)
    ]
    return "\n".join(["| name | work | place | age |", "|---|---|---|---|", *rows])


def _records(rng: Random) -> str:
    records = [
        {"id": rng.randrange(10000), "name": rng.choice(NAMES), "owns": [rng.choice(THINGS) for _ in range(2)]}
        for _ in range(6)
    ]
    return json.dumps(records, indent=1)


def _steps(rng: Random) -> str:
    return "\n".join(
        f"{n}. {rng.choice(NAMES)} {rng.choice(VERBS)} beside the {rng.choice(ADJECTIVES)} {rng.choice(PLACES)}."
        for n in range(1, 13)
    )
