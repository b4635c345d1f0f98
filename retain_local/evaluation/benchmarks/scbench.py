"""SCBench (arXiv 2412.10319): several questions about one long text, which a cache reads once.

A line has ``context`` (or ``input``) and ``multi_turns``, each with ``input`` and ``answer``. This is its mode of many
requests: every question is asked of the text alone, and not after the earlier ones. Prompts, lengths of replies and
metrics follow its `eval_utils.py` and `compute_scores.py` (microsoft/MInference, MIT). The tasks with functions of a
repository (RepoQA), whose metric parses six programming languages, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...errors import RetainError, UsageError
from .benchmark import Benchmark, BenchmarkItem, BenchmarkQuestion, Line, Metric, read_lines
from .metrics import BestOf, contained_share, contains, contains_any_case, f1_characters, first_number, require, rouge_l

PREFIX = "scbench_"
_IN_JSON = "Extract the value corresponding to the specified key in the JSON object below.\n\n{context}\n\n{input}"
_CHOICE = (
    "Read the book and answer the question.\n\n{context}\n\nQuestion: {input}\n"
    "A. {options[0]}\nB. {options[1]}\nC. {options[2]}\nD. {options[3]}\n\nThe the correct answer is"
)
_QA = (
    "Read the book and answer the question. Be very concise in your answer.\n\n{context}\n\nQuestion: {input}\nAnswer:"
)
_QA_CHINESE = "阅读以下书籍然后回答问题。\n\n{context}\n\n问题：{input}\n答案："
_PLAIN = "{context}\n\n{input}"
_WITH_QUESTION = "{question}\n\n{context}\n\n{input}"


def score_choice(reply: str, references: tuple[str, ...]) -> float:
    """Whether the reply chooses the right letter or text, the references.

    The choice is the letter that the reply begins with, else what comes after "answer is" and the like, else the first
    letter that stands alone.
    """
    reply = reply.strip()
    if reply[:1] in tuple("ABCD"):
        return float(reply[0] in references)
    if reply in references:
        return 1.0
    words = " ".join(re.sub(r"[\n\"'.,?!{}]", " ", reply).split())
    for start in ("answer is:", "answer:", "answer is", "option is"):
        if start in words:
            return float(words.partition(start)[2].strip().startswith(references))
    alone = next((word for word in words.split() if word in tuple("ABCD")), "")
    return float(alone in references)


@dataclass(frozen=True)
class _Task:
    """What the benchmark says of a task: prompt, tokens of a reply, metric, and the package that the metric needs."""

    prompt: str
    max_tokens: int
    metric: Metric
    package: str = ""


_NUMBER = BestOf(first_number)
_TASKS = {
    "kv": _Task(_IN_JSON, 150, BestOf(contains)),
    "prefix_suffix": _Task(_PLAIN, 150, BestOf(contains)),
    "vt": _Task(_PLAIN, 30, contained_share),
    "choice_eng": _Task(_CHOICE, 40, score_choice),
    "qa_eng": _Task(_QA, 40, BestOf(contains_any_case)),
    "qa_chn": _Task(_QA_CHINESE, 40, BestOf(f1_characters)),
    "mf": _Task(_WITH_QUESTION, 5, _NUMBER),
    "many_shot": _Task(_PLAIN, 10, BestOf(contains_any_case)),
    "summary": _Task(_PLAIN, 200, BestOf(rouge_l), "rouge"),
    "summary_with_needles": _Task(_PLAIN, 800, BestOf(rouge_l), "rouge"),
}
# of summary_with_needles, where each turn says which it is
_OF_TURN: dict[str, Callable[[str, tuple[str, ...]], float]] = {
    "scbench_summary": BestOf(rouge_l),
    "scbench_passkey": _NUMBER,
}


def load_scbench(path: Path, task: str) -> Benchmark:
    """The items of a file; ``task`` names its task, where the file's name does not."""
    name = (task or path.stem).removeprefix(PREFIX)
    if name not in _TASKS:
        raise UsageError(f"{name!r} is no task of SCBench that is known here; those are {', '.join(_TASKS)}")
    if _TASKS[name].package:
        require(_TASKS[name].package)
    items = tuple(_item(line, _TASKS[name]) for line in read_lines(path))
    return Benchmark(f"scbench/{name}", _TASKS[name].max_tokens, items)


def _item(line: Line, task: _Task) -> BenchmarkItem:
    context = line.printed("context" if "context" in line else "input")
    return BenchmarkItem(tuple(_question(turn, context, task) for turn in line.lines("multi_turns")))


def _question(turn: Line, context: str, task: _Task) -> BenchmarkQuestion:
    references = turn.texts("answer")
    options = turn.texts("options") if task.prompt == _CHOICE else ()
    if options:
        references += _letter(turn, options, references[0])
    asked = turn.text("input")
    text = task.prompt.format(context=context, input=asked, options=options, question=_what_is(asked))
    metric = _OF_TURN.get(turn.text("task"), task.metric) if "task" in turn else task.metric
    if metric == _NUMBER and not all(re.fullmatch(r"-?\d+(\.\d+)?", reference) for reference in references):
        raise RetainError(f"{turn.where}: the answer is no number")
    return BenchmarkQuestion(text, references, metric)


def _letter(turn: Line, options: tuple[str, ...], answer: str) -> tuple[str, ...]:
    if len(options) != 4 or answer not in options:
        raise RetainError(f"{turn.where}: the answer is not one of four options")
    return ("ABCD"[options.index(answer)],)


def _what_is(asked: str) -> str:
    """ "What is the smallest number?" for "The smallest number is"."""
    match = re.search(r"The .+(?= is)", asked)
    return f"What is {match[0].lower()}?" if match else ""
