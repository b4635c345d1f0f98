"""The report of an audit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from ..divergence.text_cache import TextCache, chunks
from ..divergence.texts import AuditText, token_text
from ..options.archive import share_text
from ..options.retention_options import RetentionOptions
from ..report.files import ReportFiles
from ..report.kept_text import KeptText, make_kept_text, name_budget
from ..report.page import render
from ..report.recalls import RecallRecorder, Recalls
from ..report.recorder import Recorder, Trace
from ..terminal.progress import AuditProgress
from ..vision.layout import Layout
from .pictures import divergence_pictures
from .reading import options_for
from .result import Audit, BudgetAudit
from .tables import (
    BUDGET_HEADS,
    RECALL_HEADS,
    RECALL_TITLE,
    budget_row,
    full_row,
    heading,
    note,
    recall_rows,
    short_names,
)
from .verdict import Bound, conclusion, recommend
from .worst import Place, worst_places

if TYPE_CHECKING:
    from ..llama import Llama

_WORST = 20
_ONE_BY_ONE = 64  # tokens at the end of a text


def write_audit_report(files: ReportFiles, llm: Llama, audit: Audit, bound: Bound, options: RetentionOptions) -> None:
    """Read the longest text once more at one budget, draw all, and write what is wanted of the report.

    The budget is the recommended one, or the smallest.

    Parameters
    ----------
    llm, options : as `audit_texts` had them.

    Raises
    ------
    RetainError : the text cannot be read again; see also `ReportFiles.write`.
    """
    best = recommend(audit, bound)
    shown = best or audit.budgets[-1]
    number = max(range(len(audit.texts)), key=lambda i: len(audit.texts[i].tokens))
    kept = _read_again(llm, audit, shown, number, options)
    divergence = divergence_pictures(audit, bound)
    html = render(
        "audit.html.j2",
        title=f"What eviction costs {audit.model.name}",
        facts=[("audited", heading(audit))],
        verdict="".join(conclusion(audit, bound, best)),
        budgets=(BUDGET_HEADS, [*(budget_row(one, bound) for one in audit.budgets), full_row(audit)]),
        recall=(RECALL_TITLE, RECALL_HEADS, recall_rows(audit)),
        note=note(audit),
        files=_file_table(audit),
        divergence=divergence,
        kept=kept,
        which=_which(audit, best, number),
        worst=_worst(llm, audit, shown, kept, number),
    )
    files.write(html, chain(divergence, kept.files()))


def _read_again(llm: Llama, audit: Audit, shown: BudgetAudit, number: int, options: RetentionOptions) -> KeptText:
    text = audit.texts[number]
    trace, recalls = _record(llm, text, options_for(llm, options, shown.budget, shown.recall, text))
    kl = np.concatenate([[0.0], shown.divergences[number].kl])
    title = name_budget(shown.budget, trace.budget)
    if shown.recall:
        title += f", {share_text(shown.recall)} of them recalled"
    of_picture = np.array(text.tokens[:-1]) < 0
    return make_kept_text("kept", title, trace, text.pieces[:-1], kl[:-1], of_picture, recalls)


def _record(llm: Llama, text: AuditText, options: RetentionOptions) -> tuple[Trace, Recalls | None]:
    tokens = text.tokens[:-1]  # the last one is only predicted
    layout = Layout.of(text.tokens, llm.pictures)
    with (
        TextCache(llm, options, layout) as cache,
        Recorder(cache.retention, len(tokens)) as recorder,
        AuditProgress("drawing what is kept") as progress,
    ):
        recalls = RecallRecorder(cache.retention, len(tokens)) if options.recall_share else None
        for start, stop in _steps(len(tokens), cache.n_chunk, layout, recalls is not None):
            progress(start, len(tokens))
            recorder.n_read = start
            cache.read(tokens[start:stop])
            if recalls is not None:
                recalls.note(start, stop)
        return recorder.trace(), recalls.recalls() if recalls is not None else None


def _steps(n_tokens: int, n_chunk: int, layout: Layout, shows_recall: bool) -> Iterator[tuple[int, int]]:
    """The chunks of a text; to show what is recalled for each of them, its last tokens are chunks of their own."""
    n_last = min(_ONE_BY_ONE, n_tokens) if shows_recall and not layout.placed else 0
    yield from chunks(n_tokens - n_last, n_chunk, layout)
    yield from ((token, token + 1) for token in range(n_tokens - n_last, n_tokens))


def _which(audit: Audit, best: BudgetAudit | None, number: int) -> str:
    text = audit.texts[number]
    of = f"The longest text, {text.file} from line {text.line}" if len(audit.texts) > 1 else "The text"
    return f"{of}, at {'the recommended' if best is not None else 'the smallest'} budget."


def _file_table(audit: Audit) -> tuple[list[str], list[list[str]]] | None:
    """Mean KL of each file at each budget, where there are several files."""
    names = short_names(audit)
    if len(names) < 2:
        return None
    heads = ["file", *(one.name for one in audit.budgets)]
    return heads, [[name, *(f"{one.files[file].kl_mean:.4f}" for one in audit.budgets)] for file, name in names.items()]


def _worst(
    llm: Llama, audit: Audit, shown: BudgetAudit, kept: KeptText, number: int
) -> list[tuple[Place, str, str | None]]:
    """The worst places, each with where it is in words, and its anchor where its text is on the page."""
    if not shown.evicts:
        return []
    names = short_names(audit)
    rows = []
    for place in worst_places(shown, _WORST, partial(token_text, llm)):
        where = f"{names[place.file]}:{place.line}" if len(names) > 1 else f"line {place.line}"
        rows.append((place, where, kept.anchor(place.token) if place.text == number else None))
    return rows
