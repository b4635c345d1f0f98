"""LongBench v2 (arXiv 2412.15204): questions about long texts with four choices.

An entry has ``context``, ``question``, ``choice_A`` to ``choice_D`` and ``answer``, a letter. The prompt is the
benchmark's own for answers without reasoning (THUDM/LongBench, MIT: `prompts/0shot.txt`).
"""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import RetainError
from .benchmark import Benchmark, BenchmarkItem, BenchmarkQuestion, Line, read_lines

PROMPT = """\
Please read the following text and answer the question below.

<text>
{context}
</text>

What is the correct answer to this question: {question}
Choices:
(A) {choices[0]}
(B) {choices[1]}
(C) {choices[2]}
(D) {choices[3]}

Format your response as follows: "The correct answer is (insert answer here)"."""
MAX_TOKENS = 128


def load_longbench_v2(path: Path, task: str) -> Benchmark:
    """The items of a file; ``task`` takes those of one length (short, medium, long) alone."""
    lines = [line for line in read_lines(path) if not task or line.text("length") == task]
    if not lines:
        raise RetainError(f"{path} has no texts of length {task!r}; LongBench v2 knows short, medium and long")
    name = "longbench_v2" + (f"/{task}" if task else "")
    return Benchmark(name, MAX_TOKENS, tuple(BenchmarkItem((_question(line),)) for line in lines))


def _question(line: Line) -> BenchmarkQuestion:
    answer = line.text("answer")
    if answer not in tuple("ABCD"):
        raise RetainError(f"{line.where}: the answer {answer!r} is not A, B, C or D")
    choices = [line.text(f"choice_{letter}") for letter in "ABCD"]
    text = PROMPT.format(context=line.text("context").strip(), question=line.text("question").strip(), choices=choices)
    return BenchmarkQuestion(text, (answer,), score_choice)


def score_choice(reply: str, references: tuple[str, ...]) -> float:
    """Whether the reply says that the right letter is the correct answer, with or without parentheses."""
    match = re.search(r"The correct answer is (?:\(([A-D])\)|([A-D]))", reply.replace("*", ""))
    return float(match is not None and (match[1] or match[2]) in references)
