"""`retain-local eval`: from what was asked for to the tables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from ..errors import RetainError, UsageError
from ..evaluation.arms import make_arms
from ..evaluation.example import read_example
from ..evaluation.markdown import render_markdown
from ..evaluation.merge import read_results, read_settings
from ..evaluation.options import EvalOptions, TaskOptions
from ..evaluation.page import write_eval_report
from ..evaluation.plan import Plan, PreparedTask, prepare_tasks
from ..evaluation.records import RecordFile
from ..evaluation.run import Unit, run_units, units_left
from ..evaluation.source import find_sources
from ..evaluation.table import print_results
from ..models.model_file import read_model_file
from ..options.model_options import ModelOptions
from ..options.retention_options import AUTO_GATES, RetentionOptions
from ..report.files import ReportFiles
from ..report.kept_text import KeptText
from ..tasks import TASKS
from ..terminal.progress import EvalProgress
from .loading import usual_threads
from .model_name import find_model
from .parts import EVAL
from .recalls import recalls_of


@dataclass(frozen=True)
class EvalRequest:
    """All that `eval` was asked for, table by table. `retention` holds what is the same in every arm."""

    options: EvalOptions
    tasks: TaskOptions
    retention: RetentionOptions
    loading: ModelOptions
    report: ReportFiles


def run_eval(model: str, request: EvalRequest) -> None:
    """Measure what is left to measure, with progress, print the tables, and write the report.

    Raises
    ------
    RetainError : see `find_sources`, `make_arms`, `RecordFile`, `prepare_tasks`, `run_units` and `ReportFiles`.
    """
    options, report = request.options, request.report
    report.check()
    console, notes = Console(highlight=False, emoji=False), Console(stderr=True, highlight=False, emoji=False)
    plan = _make_plan(model, request)
    tasks = prepare_tasks(plan)
    records = RecordFile(options.json, plan.settings())
    units = units_left(plan, tasks, records)
    total = len(plan.arms) * sum(len(task.items) for task in tasks)
    if 0 < len(units) < total:
        notes.print(
            f"[dim]resuming: {total - len(units):,} of {total:,} conversations are in {escape(str(options.json))}[/]"
        )
    with EvalProgress(total - len(units), total) as progress:
        try:
            _measure(plan, tasks, units, records, options.jobs, progress)
        except KeyboardInterrupt:
            if options.json is not None:
                where = f"{len(records):,} results are in {escape(str(options.json))}"
                notes.print(f"[dim]stopped; {where}: run it again to resume[/]")
            raise
    keys = {(str(arm), source.name) for arm in plan.arms for source in plan.sources}
    results = {"": [record for record in records if (record.arm, record.task) in keys]}
    titles = {source.name: source.title for source in plan.sources}
    print_results(console, results, titles)
    if report.wanted:
        example, kept = _read_example(plan, tasks)
        write_eval_report(report, results, titles, [("", plan.settings())], example, kept)


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


def _make_plan(model: str, request: EvalRequest) -> Plan:
    path, fetched_gates = find_model(model)
    options, retention, loading = request.options, request.retention, request.loading
    gates = fetched_gates if retention.gates == AUTO_GATES and fetched_gates is not None else retention.gates
    threads = loading.n_threads or _threads(path, options.jobs)
    load = {name: getattr(retention, name) for name in EVAL["cache"].names if name != "scope"}  # that is each arm's own
    load |= {name: getattr(loading, name) for name in EVAL["loading"].names}
    load |= {
        "gates": gates,
        "n_threads": threads,
        "n_threads_batch": threads,
        "n_batch": max(512, retention.n_ubatch or 0),
    }
    parameters = request.tasks.given()
    policies = _split(options.policies, "policies") if options.policies else _usual_policies(path, gates)
    return Plan(
        path,
        find_sources(_split(options.tasks, "tasks"), parameters),
        make_arms(policies, _split(options.budgets, "budgets"), retention.scope, recalls_of(options.recall, retention)),
        options.items,
        options.seed,
        parameters,
        load,
        options.cut,
    )


def _threads(model: Path, n_jobs: int) -> int:
    """The machine's cores, shared by the processes."""
    return usual_threads(model) or max(1, (os.cpu_count() or 1) // n_jobs)


def _usual_policies(model: Path, gates: Any) -> list[str]:
    has_gates = gates is not None and (gates != AUTO_GATES or read_model_file(model).sidecar_path().is_file())
    return ["gate", "window", "random"] if has_gates else ["window", "random"]


def _split(text: str, name: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UsageError(f"{name} {text!r} has an empty part")
    return parts
