"""What every loader makes of a benchmark's file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import RetainError

Metric = Callable[[str, tuple[str, ...]], float]  # (reply, references) -> 0 to 1


@dataclass(frozen=True)
class BenchmarkQuestion:
    """A prompt with its text, and how its reply is scored.

    Attributes
    ----------
    text : str
        The whole message of the user, or all that comes before the reply where the benchmark is no chat.
    references : tuple of str
        What the metric compares the reply with.
    metric : callable
    reply_start : str
        Written for the model at the beginning of its reply.
    """

    text: str
    references: tuple[str, ...]
    metric: Metric
    reply_start: str = ""

    def score(self, reply: str) -> float:
        """0 (wrong) to 1 (right)."""
        return self.metric(reply, self.references)


@dataclass(frozen=True)
class BenchmarkItem:
    """Questions whose texts begin alike; what they share is read once."""

    questions: tuple[BenchmarkQuestion, ...]
    turns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """A benchmark, loaded: a `Source` of an evaluation.

    Attributes
    ----------
    name : str
    max_tokens : int
        Of a reply.
    loaded : tuple of BenchmarkItem
    is_chat : bool
        Whether the prompts go through the model's chat template.
    may_be_cut : bool
        A prompt that is too long may lose its middle.
    """

    name: str
    max_tokens: int
    loaded: tuple[BenchmarkItem, ...]
    is_chat: bool = True
    may_be_cut: bool = True

    @property
    def title(self) -> str:
        return self.name

    def items(self, n_questions: int, seed: int) -> list[BenchmarkItem]:
        """The first so many questions; the seed makes no difference."""
        items: list[BenchmarkItem] = []
        for item in self.loaded:
            if n_questions <= 0:
                break
            items.append(replace(item, questions=item.questions[:n_questions]))
            n_questions -= len(items[-1].questions)
        return items


class Line:
    """One entry of a benchmark's file: fields by name, each checked when it is asked for."""

    def __init__(self, fields: Any, where: str) -> None:
        if not isinstance(fields, dict):
            raise RetainError(f"{where} is not an object with fields")
        self._fields, self.where = fields, where

    def __contains__(self, name: str) -> bool:
        return self._fields.get(name) is not None

    def text(self, name: str) -> str:
        """A field that is a text; numbers are taken as texts."""
        value = self._field(name)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise RetainError(f"{self.where}: field '{name}' is not a text")
        return str(value)

    def printed(self, name: str) -> str:
        """A field that is a text, or a list as Python prints it."""
        value = self._field(name)
        return str(value) if isinstance(value, list) else self.text(name)

    def texts(self, name: str) -> tuple[str, ...]:
        """A field that is a list of texts, or one text; not empty."""
        value = self._field(name)
        values = value if isinstance(value, list) else [value]
        if not values or not all(isinstance(v, (str, int, float)) and not isinstance(v, bool) for v in values):
            raise RetainError(f"{self.where}: field '{name}' is not a list of texts")
        return tuple(map(str, values))

    def lines(self, name: str) -> list[Line]:
        """A field that is a list of objects; not empty."""
        value = self._field(name)
        if not isinstance(value, list) or not value:
            raise RetainError(f"{self.where}: field '{name}' is not a list of objects")
        return [Line(entry, f"{self.where}: {name}[{at}]") for at, entry in enumerate(value)]

    def _field(self, name: str) -> Any:
        if name not in self._fields:
            raise RetainError(f"{self.where} has no field '{name}'; has the file another format?")
        return self._fields[name]


def read_lines(path: Path) -> Iterator[Line]:
    """The entries of a JSONL file, or of a file with one JSON list.

    Raises
    ------
    RetainError : the file cannot be read, is empty, or a line of it is not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RetainError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise RetainError(f"{path} is not a text file") from None
    except OSError as error:
        raise RetainError(f"{path} cannot be read: {error.strerror}") from None
    if not text.strip() or re.fullmatch(r"\s*\[\s*\]\s*", text):
        raise RetainError(f"{path} is empty")
    if text.lstrip().startswith("["):
        yield from (Line(entry, f"{path}: entry {at}") for at, entry in enumerate(_parse(text, str(path)), 1))
        return
    # `splitlines` would cut at characters that may stand in a text of JSON
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield Line(_parse(line, f"{path}: line {number}"), f"{path}: line {number}")


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RetainError(f"{where} is not JSON: {error}") from None
