"""RULER (arXiv 2404.06654): needles, variable tracking, word counts and questions, of any length.

Its own scripts write the files. A line has ``input``, the prompt, and ``outputs``, the answers. Newer files keep the
beginning of the reply in ``answer_prefix``: their prompt goes through the chat template. In older ones it ends the
prompt, which then is completed as it is. The file's name tells the task, which decides how long a reply may be and
whether all answers are wanted or one of them, as in RULER's `constants.py` (NVIDIA, Apache-2.0).
"""

from __future__ import annotations

from pathlib import Path

from ...errors import UsageError
from .benchmark import Benchmark, BenchmarkItem, BenchmarkQuestion, Line, Metric, read_lines
from .metrics import BestOf, contained_share, contains_any_case

# how a task's name begins or what it has in it, and the tokens of a reply
_KINDS = {"niah": 128, "vt": 30, "cwe": 120, "fwe": 50, "qa": 32}


def load_ruler(path: Path, task: str) -> Benchmark:
    """The items of a file; ``task`` names its task, where the file's name does not."""
    name = task or path.stem
    kind = next((kind for kind in _KINDS if kind in name.split("_")), None)
    if kind is None:
        raise UsageError(
            f"{name!r} does not tell which task of RULER it is ({', '.join(_KINDS)}); say ruler/TASK:{path}"
        )
    lines = list(read_lines(path))
    metric = BestOf(contains_any_case) if kind == "qa" else contained_share
    items = tuple(BenchmarkItem((_question(line, metric),)) for line in lines)
    return Benchmark(f"ruler/{name}", _KINDS[kind], items, is_chat="answer_prefix" in lines[0])


def _question(line: Line, metric: Metric) -> BenchmarkQuestion:
    start = line.text("answer_prefix") if "answer_prefix" in line else ""
    return BenchmarkQuestion(line.text("input"), line.texts("outputs"), metric, start)
