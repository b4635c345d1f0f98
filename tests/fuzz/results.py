"""Files of results that were changed or made up: tables, Markdown and a report of them, or one error."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import numpy as np
from rich.console import Console

from fuzz.mutate import mutate
from fuzz.run import main
from retain_local.errors import RetainError
from retain_local.evaluation.markdown import render_markdown
from retain_local.evaluation.merge import read_results, read_settings
from retain_local.evaluation.page import write_eval_report
from retain_local.evaluation.records import FORMAT
from retain_local.evaluation.table import print_results
from retain_local.report.files import ReportFiles

VALUES = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**400, 0.5, 1e308, -1e308, float("nan"), float("inf"), "", "full", "gate",
    "gate 1/4", "a\x1b[2J", "[bold]", "[/nothing]", "a|b", "\ud800", "x" * 5000, [], [[]], [0.5], [1e308], [None], ["a"], {},
    {"a": 1}, {"parameters": 3},
]  # fmt: skip


def record(arm: str, method: str, budget: str, task: str, item: int, n: int) -> dict[str, object]:
    """A line of a file; of a text where the task is named so."""
    line: dict[str, object] = {
        "arm": arm, "method": method, "budget": budget, "task": task, "item": item, "scores": [0.0, 1.0, 0.5][:n],
        "replies": ["yes", "no", "\N{GRINNING FACE}"][:n], "n_prompt": 100, "n_budget": 32, "n_cells": 128, "n_written": 9,
        "bytes_peak": 1 << 20, "bytes_pool": 1 << 21, "read_seconds": 0.5, "write_seconds": 0.25,
    }  # fmt: skip
    return line | ({"kl": [0.1, 0.2, 0.3][:n], "nll": [1.0, 2.0, 3.0][:n], "replies": []} if task == "text" else {})


def whole_file() -> list[dict[str, object]]:
    arms = [("full", "full", ""), ("gate 1/4", "gate", "1/4"), ("window 1/4", "window", "1/4")]
    head = {"format": FORMAT, "settings": {"model": "m", "items": 2, "parameters": {"n_ctx": 4}}}
    return [head, *(record(*arm, task, i, 3) for arm in arms for task in ("recall", "text") for i in range(2))]


class ResultsFuzzer:
    """Changes of one file's values, lines and bytes."""

    def __init__(self, folder: Path) -> None:
        self.path, self.page = folder / "results.jsonl", folder / "page.html"

    def case(self, rng: np.random.Generator) -> None:
        chooser = random.Random(int(rng.integers(2**63)))
        self.path.write_bytes(changed_bytes(rng, chooser))
        try:
            results = read_results([str(self.path)])
            if not results:
                return
            out = io.StringIO()
            print_results(Console(file=out, width=200), results, {})
            shown = out.getvalue() + render_markdown(results, {})
            assert not set(shown) & set("\x1b\x07\x9b\u202e")
            if chooser.random() < 0.02:
                write_eval_report(ReportFiles(self.page), results, {}, read_settings([str(self.path)]))
        except RetainError as error:
            assert len(str(error).splitlines()) == 1


def changed_bytes(rng: np.random.Generator, chooser: random.Random) -> bytes:
    lines = whole_file()
    for _ in range(chooser.choice([0, 1, 1, 2, 3])):
        kind, line = chooser.randrange(8), chooser.choice(lines)
        if kind == 0:
            lines.remove(line)
        elif kind == 1:
            lines.insert(chooser.randrange(len(lines) + 1), dict(line))
        elif kind == 2 and line:
            del line[chooser.choice(list(line))]
        elif kind == 3:
            line[chooser.choice(["kl", "nll", "what", "settings"])] = chooser.choice(VALUES)
        elif line:
            key = chooser.choice(list(line))
            for other in lines if kind == 4 else [line]:
                other[key] = chooser.choice([*VALUES, chooser.choice(lines).get(key)])
        lines = lines or whole_file()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if chooser.random() < 0.02:
        text += "[" * 100_000 + "\n"
    return mutate(rng, text.encode()) if chooser.random() < 0.2 else text.encode()


if __name__ == "__main__":
    main(ResultsFuzzer)
