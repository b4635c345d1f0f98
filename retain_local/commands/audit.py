"""`retain-local audit`: from what was asked for to the tables and the verdict."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from ..audit.as_json import audit_as_dict
from ..audit.options import AuditOptions
from ..audit.result import Audit, BudgetAudit
from ..audit.tables import print_audit
from ..audit.verdict import Bound, conclusion, recall_flags, recommend
from ..divergence.texts import make_texts, read_files, token_text
from ..files import check_writable, write_text
from ..models.model_file import ModelFile
from ..options.archive import WITHOUT_ARCHIVE, share_text
from ..options.budget import Budget
from ..options.model_options import ModelOptions
from ..options.recommendation import Recommendation, Shelf
from ..options.retention_options import NO_GATES, RetentionOptions
from ..report.files import ReportFiles
from ..terminal.progress import AuditProgress
from ..vision.source import read_image_file
from .loading import gates_to_load, load_model
from .model_name import find_model
from .recalls import recalls_of

if TYPE_CHECKING:
    from ..llama import Llama

NOT_RECOMMENDED = 2  # exit status when no budget is within the bound

logger = logging.getLogger("retain_local")


def run_audit(
    model: str,
    paths: Sequence[Path],
    options: AuditOptions,
    retention: RetentionOptions,
    loading: ModelOptions,
    report: ReportFiles,
) -> int:
    """Audit a model on texts, print what was found, and keep the recommendation.

    Returns the exit status, `NOT_RECOMMENDED` when no budget is within the bound.

    Raises
    ------
    RetainError : see `read_files`, `load_model`, `make_texts` and `audit_texts`.
    """
    bound = Bound.make(options.max_kl, options.min_agreement)
    budgets = list(dict.fromkeys(Budget.parse(text) for text in options.budgets.split(",")))
    recalls = recalls_of(options.recall, retention)
    if options.json is not None:
        check_writable(options.json)
    report.check()
    contents = read_files(paths)
    path, fetched_gates = find_model(model)
    asked = retention
    retention = replace(asked, gates=gates_to_load(asked, fetched_gates))

    from ..audit.page import write_audit_report
    from ..audit.reading import audit_texts  # loads the native libraries

    with closing(_load_weights(path, asked, loading)) as llm:
        images = [llm.projector.read(read_image_file(file), str(file)) for file in options.image or ()]
        texts = make_texts(llm, contents, options.window, images=images)
        with AuditProgress() as progress:
            audit = audit_texts(llm, texts, budgets, retention, progress, recalls)
        if asked.policy == "auto" and audit.gates is None:
            beside = "without gates" if retention.gates is None else f"no gates at {llm.model_file.sidecar_path()}"
            logger.warning("%s: the policy is 'window'", beside)
        best = recommend(audit, bound)
        piece = partial(token_text, llm)
        print_audit(Console(highlight=False, emoji=False), audit, bound, options.worst, piece)
        if options.json is not None:
            found = audit_as_dict(audit, bound, best, piece)
            write_text(options.json, json.dumps(found, ensure_ascii=False, separators=(",", ":")) + "\n")
        status = _conclude(model, llm.model_file, audit, bound, best, asked, options.store)
        if report.wanted:
            write_audit_report(report, llm, audit, bound, retention)
        return status


def _load_weights(path: Path, retention: RetentionOptions, loading: ModelOptions) -> Llama:
    """The model as its caches will have it, with the smallest cache of its own."""
    smallest = replace(
        retention, budget=1, policy="none", gates=None, sinks=0, recent=0, min_per_head=0, **WITHOUT_ARCHIVE
    )
    return load_model(str(path), smallest, replace(loading, n_batch=retention.n_ubatch))


def _conclude(
    model: str,
    file: ModelFile,
    audit: Audit,
    bound: Bound,
    best: BudgetAudit | None,
    asked: RetentionOptions,
    store: bool,
) -> int:
    """Print the verdict, and keep it where asked; returns the exit status."""
    console = Console(highlight=False, emoji=False, soft_wrap=not sys.stdout.isatty())
    verdict, reason = conclusion(audit, bound, best)
    console.print(f"[{'red' if best is None else 'green'}]{verdict}[/]{escape(reason)}")
    is_taken_back = _keep(file, audit, bound) if store else False
    if best is not None:
        if store:
            flags = _flags(asked) + recall_flags(audit, best)
            command = f"to use it: retain-local chat {escape(model)} --budget auto{escape(flags)}"
            console.print(command, soft_wrap=True)  # broken over two lines it could not be copied
        return 0
    if is_taken_back:
        console.print("the recommendation of an earlier audit is taken back")
    return NOT_RECOMMENDED


def _keep(file: ModelFile, audit: Audit, bound: Bound) -> bool:
    """Keep what is recommended with each share of recalled cells, and take back what no longer is; whether that was done."""
    is_taken_back = False
    for recall in dict.fromkeys(one.recall for one in audit.budgets):
        own = replace(audit, budgets=tuple(one for one in audit.budgets if one.recall == recall))
        options = RetentionOptions(gates=audit.gates, policy=audit.policy, scope=audit.scope)
        if recall:
            options = replace(options, archive=audit.archive["archive"], recall=recall)
        shelf, best = Shelf.of(file, options), recommend(own, bound)
        if best is not None:
            shelf.put(_recommendation(audit, bound, best))
        elif own.evicts:
            is_taken_back |= shelf.clear()
    return is_taken_back


def _recommendation(audit: Audit, bound: Bound, best: BudgetAudit) -> Recommendation:
    return Recommendation(
        cells=best.cells,
        budget=str(best.budget),
        bound=str(bound),
        kl_mean=best.summary.kl_mean,
        agreement=best.summary.agreement,
        texts=len(best.files),
        longest=max(len(text.tokens) for text in audit.texts),
        settings=audit.settings | ({"recall": share_text(best.recall), **audit.archive} if best.recall else {}),
        model=audit.model.name,
    )


def _flags(asked: RetentionOptions) -> str:
    """What else a chat must be given to use the recommendation."""
    usual = RetentionOptions()
    flags = {name: getattr(asked, name) for name in ("policy", "scope", "gates")}
    said = {name: value for name, value in flags.items() if value != getattr(usual, name)}
    return "".join(f" --{name} {NO_GATES if value is None else value}" for name, value in said.items())
