"""`retain-local eval`: from what was asked for to the tables."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from ..errors import RetainError, UsageError
from ..evaluation.arms import make_arms
from ..evaluation.example import read_example
from ..evaluation.markdown import render_markdown
from ..evaluation.merge import read_results, read_settings
from ..evaluation.page import write_eval_report
from ..evaluation.plan import Plan, PreparedTask, prepare_tasks
from ..evaluation.records import RecordFile
from ..evaluation.run import Unit, run_units, units_left
from ..evaluation.source import find_sources
from ..evaluation.table import print_results
from ..models.model_file import read_model_file
from ..report.files import ReportFiles
from ..report.kept_text import KeptText
from ..tasks import TASKS
from ..terminal.progress import EvalProgress
from .loading import usual_threads
from .model_name import find_model


@dataclass(frozen=True)
class EvalOptions:
    """Options of `eval`, as they are given.

    policies : "" takes the gates where the model has some, window and random.
    parameters : of generated tasks; None where not given.
    load : arguments of `Llama`.
    report : see `report.eval_page.write_eval_report`.
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
    report: ReportFiles = field(default_factory=ReportFiles)


def run_eval(model: str, options: EvalOptions) -> None:
    """Measure what is left to measure, with progress, print the tables, and write the report.

    Raises
    ------
    RetainError : see `find_sources`, `make_arms`, `RecordFile`, `prepare_tasks`, `run_units` and `ReportFiles`.
    """
    options.report.check()
    console, notes = Console(highlight=False, emoji=False), Console(stderr=True, highlight=False, emoji=False)
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
    results = {"": [record for record in records if (record.arm, record.task) in keys]}
    titles = {source.name: source.title for source in plan.sources}
    print_results(console, results, titles)
    if options.report.wanted:
        example, kept = _read_example(plan, tasks)
        write_eval_report(options.report, results, titles, [("", plan.settings())], example, kept)


def _measure(
    plan: Plan, tasks: list[PreparedTask], units: list[Unit], records: RecordFile, n_jobs: int, progress: EvalProgress
) -> None:
    labels = [
        f"{'all arms' if tasks[unit.task].is_text else unit.arm} · {tasks[unit.task].source.name}" for unit in units
    ]
    progress.label(*labels[:1])
    for record, following in zip(run_units(plan, tasks, units, n_jobs), [*labels[1:], ""]):
        records.add(record)
        progress.advance(following)


def _read_example(plan: Plan, tasks: list[PreparedTask]) -> tuple[str, list[KeptText]]:
    with EvalProgress(0, len({arm.method for arm in plan.arms if arm.budget is not None})) as progress:
        return read_example(plan, tasks, progress)


def show_results(files: list[str], markdown: bool, report: ReportFiles) -> None:
    """Print the tables of files that `run_eval` wrote, and write a report without pictures of what is kept.

    Raises
    ------
    RetainError : see `read_results` and `ReportFiles`.
    """
    report.check()
    results = read_results(files)
    if not results:
        raise RetainError("there are no results in it yet" if len(files) == 1 else "there are no results in them yet")
    titles = {name: task.title for name, task in TASKS.items()}
    if markdown:
        print(render_markdown(results, titles))
    else:
        print_results(Console(highlight=False, emoji=False), results, titles)
    if report.wanted:
        write_eval_report(report, results, titles, read_settings(files))


def _make_plan(model: str, options: EvalOptions) -> Plan:
    path, fetched_gates = find_model(model)
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


def _threads(model: Path, n_jobs: int) -> int:
    """The machine's cores, shared by the processes."""
    return usual_threads(model) or max(1, (os.cpu_count() or 1) // n_jobs)


def _usual_policies(model: Path, gates: Any) -> list[str]:
    has_gates = gates is not None and (gates != "auto" or read_model_file(model).sidecar_path().is_file())
    return ["gate"] * has_gates + ["window", "random"]


def _split(text: str, name: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UsageError(f"{name} {text!r} has an empty part")
    return parts
