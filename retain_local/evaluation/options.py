"""What `eval` can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..options.table import check, option

_WHAT, _TASKS, _OUTPUT, _RUN = "What is compared", "Generated tasks", "Output", "Run"
_OWN = "the task's own"


def _tasks_help() -> str:
    from ..tasks import TASKS
    from .benchmarks import BENCHMARKS

    return (
        f"What to ask, comma-separated: generated tasks ({', '.join(TASKS)}), benchmarks as BENCHMARK[/TASK][:FILE]"
        f" ({', '.join(BENCHMARKS)}), or text:FILE, where predictions are compared with the full cache's token by token."
    )


@dataclass(frozen=True)
class EvalOptions:
    """What is measured, and where the results go; each field's `Option` says what it is."""

    tasks: str = option("single,several,hops2,changes,lookup", _tasks_help, _WHAT, str)
    policies: str = option(
        "",
        "What to compare with the full cache, comma-separated: POLICY or POLICY:SCOPE, such as gate,gate:head,window.",
        _WHAT,
        str,
        unset="gate if the model has gates, window and random",
    )
    budgets: str = option(
        "1/2,1/4,1/8,1/16",
        "Cells for each (layer, KV head) on average, comma-separated: numbers, or shares of the prompt (1/8, 10%).",
        _WHAT,
        str,
    )
    recall: str | None = option(
        None,
        "What shares of the budget to use for cells recalled from the archive, comma-separated, as in 0,25%.",
        _WHAT,
        str,
        unset="0,25% with an archive, else 0",
        rare=True,
    )
    items: int = option(100, "How many questions of each task, or windows of a text.", _WHAT, int, least=1)
    seed: int = option(0, "The seed from which texts are generated.", _WHAT, int)
    json: Path | None = option(
        None, "Write every result to this file as it comes. If the file exists, the run is resumed.", _OUTPUT, Path
    )
    jobs: int = option(1, "How many processes measure at the same time.", _RUN, int, least=1, most=1024)
    cut: bool = option(False, "Cut the middle out of benchmark prompts that are too long.", _WHAT, bool, rare=True)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class TaskOptions:
    """Numbers that make generated tasks easy or hard, each where it makes a difference; None: the task's own."""

    tokens: int | None = option(
        None,
        "The length of a generated text in words and punctuation marks, or of a window of text:FILE in tokens.",
        _TASKS,
        int,
        unset=_OWN,
    )
    facts: int | None = option(None, "How many facts the questions are about.", _TASKS, int, unset=_OWN, rare=True)
    decoys: int | None = option(
        None, "How many look-alikes there are that nobody asks for.", _TASKS, int, unset=_OWN, rare=True
    )
    asked: int | None = option(None, "How many facts one question asks for.", _TASKS, int, unset=_OWN, rare=True)
    hops: int | None = option(
        None,
        "How many facts have to be followed, one after the other, to an answer.",
        _TASKS,
        int,
        unset=_OWN,
        rare=True,
    )
    changes: int | None = option(None, "How often a fact changes at most.", _TASKS, int, unset=_OWN, rare=True)
    turns: int | None = option(None, "How many messages the text is split into.", _TASKS, int, unset=_OWN, rare=True)
    depth: int | None = option(
        None,
        "Where in the text the asked facts stand, in percent of its length; without it they are scattered.",
        _TASKS,
        int,
        unset=_OWN,
        rare=True,
    )

    def __post_init__(self) -> None:
        check(self)

    def given(self) -> dict[str, Any]:
        """Those that were given, named as `tasks.Parameters` names them."""
        names = {name: f"n_{name}" for name in vars(self)} | {"depth": "depth"}
        return {names[name]: value for name, value in vars(self).items() if value is not None}
