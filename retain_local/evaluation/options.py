"""What `eval` can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..option_table import check, option

_WHAT, _TASKS, _OUTPUT, _RUN = "What is compared", "Generated tasks", "Output", "Run"
_OWN = "the task's own"


def _tasks_help() -> str:
    from ..tasks import TASKS
    from .benchmarks import BENCHMARKS

    return (
        f"What to ask, comma-separated: generated tasks ({', '.join(TASKS)}), benchmarks as BENCHMARK[/TASK][:FILE]"
        f" ({', '.join(BENCHMARKS)}), or text:FILE, which is read and compared with the full cache token by token."
    )


@dataclass(frozen=True)
class EvalOptions:
    """What is measured, and where the results go; each field's `Option` says what it is."""

    tasks: str = option("single,several,hops2,changes,lookup", _tasks_help, _WHAT, str)
    policies: str = option(
        "",
        "What to compare with the full cache, comma-separated: POLICY or POLICY:SCOPE, as gate, gate:head, window.",
        _WHAT,
        str,
        unset="gate where the model has gates, window, random",
    )
    budgets: str = option(
        "1/2,1/4,1/8,1/16",
        "Cells for each (layer, KV head) on average, comma-separated: shares of the prompt (1/8, 10%) or numbers.",
        _WHAT,
        str,
    )
    items: int = option(100, "Questions of each task, or windows of a text.", _WHAT, int, least=1)
    seed: int = option(0, "Seed of the texts: another one, other texts.", _WHAT, int)
    json: Path | None = option(
        None, "Write every result to this file as it comes; a file that is there is resumed.", _OUTPUT, Path
    )
    jobs: int = option(1, "Processes that measure at the same time.", _RUN, int, least=1, most=1024)
    cut: bool = option(False, "Cut the middle out of prompts of benchmarks that are too long.", _WHAT, bool, rare=True)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class TaskOptions:
    """Numbers that make generated tasks easy or hard, each where it makes a difference; None: the task's own."""

    tokens: int | None = option(
        None,
        "Length of the text, in words and punctuation marks; of text:FILE, of a window, in tokens.",
        _TASKS,
        int,
        unset=_OWN,
    )
    facts: int | None = option(None, "Facts that are asked for.", _TASKS, int, unset=_OWN, rare=True)
    decoys: int | None = option(None, "Look-alikes that are not asked for.", _TASKS, int, unset=_OWN, rare=True)
    asked: int | None = option(None, "Facts that one question asks for.", _TASKS, int, unset=_OWN, rare=True)
    hops: int | None = option(
        None, "Facts that one answer needs, one after the other.", _TASKS, int, unset=_OWN, rare=True
    )
    changes: int | None = option(None, "Most changes of one fact.", _TASKS, int, unset=_OWN, rare=True)
    turns: int | None = option(None, "Messages that the text is split into.", _TASKS, int, unset=_OWN, rare=True)
    depth: int | None = option(
        None,
        "Percent of the text before what is asked for, which otherwise is scattered.",
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
