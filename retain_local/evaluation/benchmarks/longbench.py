"""LongBench (arXiv 2308.14508): 21 tasks of question answering, summaries, few-shot learning, retrieval and code.

A line has ``context``, ``input``, ``answers``, ``all_classes`` and ``dataset``, the task's name. Prompts and lengths
of replies are the benchmark's own (`longbench_prompts.json`); which metric a task has, and that a prompt which is too
long loses its middle, follow its `eval.py` and `pred.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

from ...errors import RetainError, UsageError
from .benchmark import Benchmark, BenchmarkItem, BenchmarkQuestion, Line, Metric, read_lines
from .metrics import (
    BestOf,
    Classification,
    FirstLine,
    edit_similarity,
    f1,
    f1_chinese,
    number_share,
    require,
    rouge_l,
    rouge_l_chinese,
)

_METRICS = {
    "narrativeqa": f1, "qasper": f1, "multifieldqa_en": f1, "multifieldqa_zh": f1_chinese, "hotpotqa": f1,
    "2wikimqa": f1, "musique": f1, "dureader": rouge_l_chinese, "gov_report": rouge_l, "qmsum": rouge_l,
    "multi_news": rouge_l, "vcsum": rouge_l_chinese, "triviaqa": f1, "samsum": rouge_l,
    "passage_count": number_share, "passage_retrieval_en": number_share, "passage_retrieval_zh": number_share,
    "lcc": edit_similarity, "repobench-p": edit_similarity,
}  # fmt: skip
_CLASSIFIED = ("trec", "lsht")
_FIRST_LINE = ("trec", "triviaqa", "samsum", "lsht")  # of a reply counts
_NO_CHAT = (*_FIRST_LINE, "lcc", "repobench-p")  # the prompt goes on by itself
_PACKAGES = {rouge_l: ("rouge",), f1_chinese: ("jieba",), rouge_l_chinese: ("rouge", "jieba")}


def load_longbench(path: Path, task: str) -> Benchmark:
    """The items of a file.

    Parameters
    ----------
    task : must be that of the lines; "" takes what the first line says.
    """
    lines = list(read_lines(path))
    task = task or lines[0].text("dataset").removesuffix("_e")
    prompts = _prompts()
    if task not in prompts:
        raise UsageError(f"LongBench has no task {task!r}; its tasks are {', '.join(prompts)}")
    for package in _PACKAGES.get(_METRICS[task], ()) if task in _METRICS else ():
        require(package)
    items = tuple(BenchmarkItem((_question(line, task, prompts[task]["prompt"]),)) for line in lines)
    return Benchmark(f"longbench/{task}", prompts[task]["max_tokens"], items, is_chat=task not in _NO_CHAT)


def _question(line: Line, task: str, prompt: str) -> BenchmarkQuestion:
    if "dataset" in line and line.text("dataset").removesuffix("_e") != task:
        raise RetainError(f"{line.where} is of the task {line.text('dataset')!r}, not {task!r}")
    text = prompt.format(context=line.text("context"), input=line.text("input"))
    return BenchmarkQuestion(text, line.texts("answers"), _metric(line, task))


def _metric(line: Line, task: str) -> Metric:
    metric = Classification(line.texts("all_classes")) if task in _CLASSIFIED else BestOf(_METRICS[task])
    return FirstLine(metric) if task in _FIRST_LINE else metric


def _prompts() -> dict[str, dict]:
    text = Path(__file__).with_name("longbench_prompts.json").read_text(encoding="utf-8")
    return json.loads(text)["tasks"]
