"""Running an evaluation: every arm reads the same conversations in the same chunks and is asked the same questions."""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, groupby
from typing import Any, NamedTuple

from ..errors import RetainError
from ..llama import Llama
from .arms import Arm
from .conversation import ask_all
from .plan import Plan, PreparedTask
from .records import Record, RecordFile
from .text_run import WHOLE, measure_text, recalling, weights_arguments


class Unit(NamedTuple):
    """The smallest piece of work: one conversation in one arm."""

    arm: Arm
    task: int
    item: int


def units_left(plan: Plan, tasks: list[PreparedTask], records: RecordFile) -> list[Unit]:
    """What the records do not hold yet: conversations arm by arm, then texts window by window, each in all arms."""
    asked, texts = ([at for at, task in enumerate(tasks) if task.is_text == is_text] for is_text in (False, True))
    units = [Unit(arm, at, n) for arm in plan.arms for at in asked for n in range(len(tasks[at].items))]
    units += [Unit(arm, at, n) for at in texts for n in range(len(tasks[at].items)) for arm in plan.arms]
    return [unit for unit in units if (str(unit.arm), tasks[unit.task].source.name, unit.item) not in records]


def run_units(plan: Plan, tasks: list[PreparedTask], units: list[Unit], n_jobs: int = 1) -> Iterator[Record]:
    """Measure the units; their records come in the same order, whatever the number of processes.

    Raises
    ------
    RetainError : the model cannot be loaded, or a budget is too small for what must be kept.
    """
    pieces = _pieces(tasks, units)
    if n_jobs == 1:
        with Runner(plan, tasks) as runner:
            yield from chain.from_iterable(map(runner.measure, pieces))
        return
    # a fresh process each: llama.cpp's threads do not survive a fork
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_jobs, spawn, _start_worker, (plan, tasks)) as pool:
        try:
            yield from chain.from_iterable(pool.map(_measure, pieces))
        except BrokenProcessPool:
            raise RetainError("a process was killed from outside, perhaps for its memory; use fewer --jobs") from None


def _pieces(tasks: list[PreparedTask], units: list[Unit]) -> list[list[Unit]]:
    """The units that are measured in one go: all arms of a window of a text, and each conversation on its own."""
    together = groupby(units, lambda unit: (unit.task, unit.item) if tasks[unit.task].is_text else unit)
    return [list(piece) for _, piece in together]


class Runner:
    """Measures units; the model stays loaded as long as neither arm nor task changes."""

    def __init__(self, plan: Plan, tasks: list[PreparedTask]) -> None:
        self._plan, self._tasks = plan, tasks
        self._open: tuple[Arm | None, int] | None = None
        self._llm: Llama | None = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._llm is not None:
            self._llm.close()
        self._llm = self._open = None

    def load(self, unit: Unit) -> Llama:
        """The model with the cache of an arm, in the budget for a conversation that is read next."""
        task = self._tasks[unit.task]
        llm = self._opened(unit.arm, unit.task, _arguments(self._plan, unit.arm, task))
        if unit.arm.budget is not None:
            llm.reset()
            n_shared = len(task.scripts[unit.item].shared)
            assert isinstance(llm.options.budget, int)  # resolved
            llm.retention.set_budget(min(unit.arm.budget.of(n_shared), llm.options.budget))
        return llm

    def measure(self, units: list[Unit]) -> list[Record]:
        """Run one conversation in one arm, or read one window of a text in several; a record for each unit."""
        first = units[0]
        task = self._tasks[first.task]
        if not task.is_text:
            return [_record(self.load(unit), unit, task) for unit in units]
        load = self._plan.load | {"n_ctx": task.n_ctx}
        llm = self._opened(None, first.task, weights_arguments(load))
        arms = [unit.arm for unit in units]
        return measure_text(llm, load, task.items[first.item], arms, task.source.name, first.item)

    def _opened(self, arm: Arm | None, task: int, arguments: dict[str, Any]) -> Llama:
        """The model loaded with these arguments, for an arm of a task, or None for all of its arms."""
        if self._open != (arm, task):
            self.close()
            with _quiet():
                self._llm = Llama(self._plan.model, **arguments)
            self._open = arm, task
        assert self._llm is not None
        return self._llm


def _arguments(plan: Plan, arm: Arm, task: PreparedTask) -> dict[str, Any]:
    """How the model is loaded for an arm."""
    load = plan.load | {"n_ctx": task.n_ctx}
    if arm.budget is None:
        return load | WHOLE | {"budget": None}
    budget = min(arm.budget.of(task.longest_shared), task.n_ctx)
    gates = load.get("gates", "auto") if arm.policy == "gate" else None
    return load | recalling(arm) | {"policy": arm.policy, "scope": arm.scope, "budget": budget, "gates": gates}


def _record(llm: Llama, unit: Unit, task: PreparedTask) -> Record:
    arm, item, script = unit.arm, task.items[unit.item], task.scripts[unit.item]
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
        bytes_archived=replies.bytes_archived,
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


def _measure(piece: list[Unit]) -> list[Record]:
    return _runner.measure(piece)
