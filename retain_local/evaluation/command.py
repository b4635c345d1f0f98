"""`retain-local eval`: from what was asked for to the tables."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from ..errors import RetainError, UsageError
from ..loading import find_model
from ..model_file import read_model_file
from ..paths import BUNDLED_MODEL
from ..progress import EvalProgress
from ..tasks import TASKS
from .arms import make_arms
from .markdown import render_markdown
from .merge import read_results
from .plan import Plan, PreparedTask, prepare_tasks
from .records import RecordFile
from .run import Unit, run_units, units_left
from .source import find_sources
from .table import print_results

BUNDLED = "bundled"
_SMALL_MODEL = 32e6  # bytes; threads of a smaller one mostly wait for each other


@dataclass(frozen=True)
class EvalOptions:
    """Options of `eval`, as they are given.

    policies : "" takes the gates where the model has some, window and random.
    parameters : of generated tasks; None where not given.
    load : arguments of `Llama`.
    """

    tasks: str
    policies: str
    budgets: str
    scope: str
    n_items: int
    seed: int
    json: Path | None
    n_jobs: int
    cut: bool = False
    parameters: dict[str, int | None] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)


def run_eval(model: str, options: EvalOptions) -> None:
    """Measure what is left to measure, with progress, and print the tables.

    Raises
    ------
    RetainError : see `find_sources`, `make_arms`, `RecordFile`, `prepare_tasks` and `run_units`.
    """
    console, notes = Console(highlight=False), Console(stderr=True, highlight=False)
    plan = _make_plan(model, options)
    tasks = prepare_tasks(plan)
    records = RecordFile(options.json, plan.settings())
    units = units_left(plan, tasks, records)
    total = len(plan.arms) * sum(len(task.items) for task in tasks)
    if 0 < len(units) < total:
        notes.print(f"[dim]going on: {total - len(units):,} of {total:,} conversations are in {options.json}[/]")
    with EvalProgress(total - len(units), total) as progress:
        try:
            _measure(plan, tasks, units, records, options.n_jobs, progress)
        except KeyboardInterrupt:
            if options.json is not None:
                notes.print(f"[dim]stopped; {len(records):,} results are in {options.json}: run it again to go on[/]")
            raise
    keys = {(str(arm), source.name) for arm in plan.arms for source in plan.sources}
    asked_for = [record for record in records if (record.arm, record.task) in keys]
    print_results(console, {"": asked_for}, {source.name: source.title for source in plan.sources})


def _measure(
    plan: Plan, tasks: list[PreparedTask], units: list[Unit], records: RecordFile, n_jobs: int, progress: EvalProgress
) -> None:
    labels = [f"{unit.arm} · {tasks[unit.task].source.name}" for unit in units]
    progress.label(*labels[:1])
    for record, following in zip(run_units(plan, tasks, units, n_jobs), [*labels[1:], ""]):
        records.add(record)
        progress.advance(following)


def show_results(files: list[str], markdown: bool) -> None:
    """Print the tables of files that `run_eval` wrote.

    Raises
    ------
    RetainError : see `read_results`.
    """
    results = read_results(files)
    if not results:
        raise RetainError("there are no results in it yet" if len(files) == 1 else "there are no results in them yet")
    titles = {name: task.title for name, task in TASKS.items()}
    if markdown:
        print(render_markdown(results, titles))
    else:
        print_results(Console(highlight=False), results, titles)


def _make_plan(model: str, options: EvalOptions) -> Plan:
    path, fetched_gates = _find(model)
    load = dict(options.load)
    if load["gates"] == "auto" and fetched_gates is not None:
        load["gates"] = fetched_gates
    elif load["gates"] == "none":
        load["gates"] = None
    threads = load.pop("threads") or _threads(path, options.n_jobs)
    load |= {"n_threads": threads, "n_threads_batch": threads, "n_batch": max(512, load["n_ubatch"])}
    parameters = {name: value for name, value in options.parameters.items() if value is not None}
    policies = _split(options.policies, "policies") if options.policies else _usual_policies(path, load["gates"])
    return Plan(
        path,
        find_sources(_split(options.tasks, "tasks"), parameters),
        make_arms(policies, _split(options.budgets, "budgets"), options.scope),
        options.n_items,
        options.seed,
        parameters,
        load,
        options.cut,
    )


def _find(model: str) -> tuple[Path, Path | None]:
    if model == BUNDLED and not Path(model).exists():
        return BUNDLED_MODEL, None
    return find_model(model)


def _threads(model: Path, n_jobs: int) -> int:
    """The machine's cores, shared by the processes."""
    return 1 if read_model_file(model).size < _SMALL_MODEL else max(1, (os.cpu_count() or 1) // n_jobs)


def _usual_policies(model: Path, gates: Any) -> list[str]:
    has_gates = gates is not None and (gates != "auto" or read_model_file(model).sidecar_path().is_file())
    return ["gate"] * has_gates + ["window", "random"]


def _split(text: str, name: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UsageError(f"{name} {text!r} has an empty part")
    return parts
