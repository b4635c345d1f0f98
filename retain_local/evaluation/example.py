"""What each method of an evaluation keeps of one of its texts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..divergence.texts import token_texts
from ..llama import Llama
from ..report.kept_text import KeptText, make_kept_text, name_budget
from ..report.recalls import RecallRecorder, Recalls
from ..report.recorder import Recorder
from ..terminal.progress import EvalProgress
from .arms import Arm
from .plan import Plan, PreparedTask
from .run import Runner, Unit


def read_example(plan: Plan, tasks: Sequence[PreparedTask], progress: EvalProgress) -> tuple[str, list[KeptText]]:
    """Read the first text that is longer than a token once more in one arm of each method.

    Returns the name of its task, and what was kept; "" and nothing where there is no such text.
    """
    at = next((at for at, task in enumerate(tasks) if len(task.scripts[0].shared) > 1), None)
    if at is None:
        return "", []
    tokens = tasks[at].scripts[0].shared
    kept = []
    with Runner(plan, list(tasks)) as runner:
        for arm in _one_of_each_method(plan.arms):
            progress.label(f"drawing what {arm} keeps")
            llm = runner.load(Unit(arm, at, 0))
            with Recorder(llm.retention, len(tokens)) as recorder:
                recalls = _read(llm, tokens, arm)
                trace = recorder.trace()
            asked = name_budget(arm.budget, trace.budget) if arm.budget is not None else "full cache"
            title = f"{arm.method}, {asked}"
            name = f"kept-{re.sub('[^a-z0-9]+', '-', arm.method)}"
            kept.append(make_kept_text(name, title, trace, token_texts(llm, tokens, special=True), recalls=recalls))
            progress.advance("")
    return tasks[at].source.name, kept


def _read(llm: Llama, tokens: Sequence[int], arm: Arm) -> Recalls | None:
    """Read a text as the arm does, and note what is recalled, step by step, where anything is."""
    if not arm.recall:
        llm.eval(tokens)
        return None
    recorder = RecallRecorder(llm.retention, len(tokens))
    n_step = llm.context_params.n_ubatch if llm.options.prefill == "bounded" else len(tokens)
    for start in range(0, len(tokens), n_step):
        llm.eval(tokens[start : start + n_step])
        recorder.note(start, min(start + n_step, len(tokens)))
    return recorder.recalls()


def _one_of_each_method(arms: Sequence[Arm]) -> list[Arm]:
    """Of each method the arm in the middle of its budgets."""
    by_method: dict[str, list[Arm]] = {}
    for arm in arms:
        if arm.budget is not None:
            by_method.setdefault(arm.method, []).append(arm)
    return [of_method[len(of_method) // 2] for of_method in by_method.values()]
