"""Running an evaluation: every arm reads the same conversations in the same chunks and is asked the same questions."""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, NamedTuple

from ..errors import RetainError
from ..llama import Llama
from .arms import FULL, Arm
from .conversation import ask_all
from .plan import Plan, PreparedTask
from .records import Record, RecordFile


class Unit(NamedTuple):
    """The smallest piece of work: one conversation in one arm."""

    arm: Arm
    task: int
    item: int


def units_left(plan: Plan, tasks: list[PreparedTask], records: RecordFile) -> list[Unit]:
    """What the records do not hold yet, in the order of the plan."""
    units = [Unit(arm, at, n) for arm in plan.arms for at, task in enumerate(tasks) for n in range(len(task.items))]
    return [unit for unit in units if (str(unit.arm), tasks[unit.task].source.name, unit.item) not in records]


def run_units(plan: Plan, tasks: list[PreparedTask], units: list[Unit], n_jobs: int = 1) -> Iterator[Record]:
    """Measure the units; their records come in the same order, whatever the number of processes.

    Raises
    ------
    RetainError : the model cannot be loaded, or a budget is too small for what must be kept.
    """
    if n_jobs == 1:
        with Runner(plan, tasks) as runner:
            yield from map(runner.measure, units)
        return
    # a fresh process each: llama.cpp's threads do not survive a fork
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_jobs, spawn, _start_worker, (plan, tasks)) as pool:
        try:
            yield from pool.map(_measure, units)
        except BrokenProcessPool:
            raise RetainError("a process was killed from outside, perhaps for its memory; use fewer --jobs") from None


class Runner:
    """Measures units; the model stays loaded as long as neither arm nor task changes."""

    def __init__(self, plan: Plan, tasks: list[PreparedTask]) -> None:
        self._plan, self._tasks = plan, tasks
        self._open: tuple[Arm, int] | None = None
        self._llm: Llama | None = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._llm is not None:
            self._llm.close()
        self._llm = self._open = None

    def measure(self, unit: Unit) -> Record:
        """Run one conversation in one arm."""
        task = self._tasks[unit.task]
        if self._open != (unit.arm, unit.task):
            self.close()
            with _quiet():
                self._llm = Llama(self._plan.model, **_arguments(self._plan, unit.arm, task))
            self._open = unit.arm, unit.task
        return _record(self._llm, unit, task)


def _arguments(plan: Plan, arm: Arm, task: PreparedTask) -> dict[str, Any]:
    """How the model is loaded for an arm."""
    load = plan.load | {"n_ctx": task.n_ctx}
    if arm.policy == FULL:
        return load | {"policy": "none", "budget": None, "gates": None, "sinks": 0, "recent": 0, "min_per_head": 0}
    budget = min(arm.budget.of(task.longest_shared), task.n_ctx)
    gates = load.get("gates", "auto") if arm.policy == "gate" else None
    return load | {"policy": arm.policy, "scope": arm.scope, "budget": budget, "gates": gates}


def _record(llm: Llama, unit: Unit, task: PreparedTask) -> Record:
    arm, item, script = unit.arm, task.items[unit.item], task.scripts[unit.item]
    if arm.budget is not None:
        llm.reset()
        llm.retention.set_budget(min(arm.budget.of(len(script.shared)), llm.options.budget))
    replies = ask_all(llm, script, task.source.max_tokens, task.stop)
    stats = llm.retention.stats()
    return Record(
        arm=str(arm),
        method=arm.method,
        budget=str(arm.budget or ""),
        task=task.source.name,
        item=unit.item,
        scores=[question.score(reply) for question, reply in zip(item.questions, replies.texts)],
        replies=replies.texts,
        n_prompt=len(script.shared),
        n_budget=stats.budget,
        n_cells=replies.n_cells,
        n_written=replies.n_written,
        bytes_peak=stats.cells_peak * stats.bytes_cell,
        bytes_pool=stats.bytes_pool,
        read_seconds=replies.read_seconds,
        write_seconds=replies.write_seconds,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks that loading makes: dozens of arms would repeat them."""
    logger = logging.getLogger("retain_local")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


_runner: Runner  # of a worker process


def _start_worker(plan: Plan, tasks: list[PreparedTask]) -> None:
    global _runner
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the first process ends the others
    _runner = Runner(plan, tasks)


def _measure(unit: Unit) -> Record:
    return _runner.measure(unit)
