"""GSM8K (arXiv 2110.14168): word problems of grade-school arithmetic.

A line has ``question`` and ``answer``, whose number comes after ``####``. The benchmark has no prompt for chat models;
the one here asks for the reasoning and for the number in the same form.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import RetainError
from .benchmark import Benchmark, BenchmarkItem, BenchmarkQuestion, Line, read_lines

PROMPT = "{question}\n\nThink step by step, and end with a line that has #### and the answer as a number."
MAX_TOKENS = 512
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def load_gsm8k(path: Path, task: str) -> Benchmark:
    """The items of a file; there is one task."""
    return Benchmark("gsm8k", MAX_TOKENS, tuple(BenchmarkItem((_question(line),)) for line in read_lines(path)))


def _question(line: Line) -> BenchmarkQuestion:
    answer = _last_number(line.text("answer").rpartition("####")[2])
    if answer is None:
        raise RetainError(f"{line.where}: the answer has no number after ####")
    return BenchmarkQuestion(PROMPT.format(question=line.text("question")), (str(answer),), score_number)


def score_number(reply: str, references: tuple[str, ...]) -> float:
    """Whether the number after ``####``, or else the last number of the reply, is the right one."""
    number = _last_number(reply.rpartition("####")[2])
    return float(number is not None and number == float(references[0]))


def _last_number(text: str) -> float | None:
    numbers = _NUMBER.findall(text)
    return float(numbers[-1].replace(",", "")) if numbers else None
