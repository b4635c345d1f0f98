"""`retain-local gates list` and `gates pull`, and the line about published gates: from arguments to what is printed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from ..errors import UsageError
from ..gates import describe_sidecar, facts_table
from ..gates.published.pull import choose_gates, gates_for, published_hint, pull_gates
from ..gates.published.registry import PublishedGates, published_gates
from ..gates.sidecar.file import WEIGHT_TYPES
from ..models.model_file import read_model_file
from ..options.retention_options import AUTO_GATES, RetentionOptions
from ..terminal.safe_text import safe_line

if TYPE_CHECKING:
    from ..llama import Llama

logger = logging.getLogger("retain_local")


def list_gates(model: Path | None, registry: Path | None, as_json: bool) -> None:
    """Print the published gates that are known, or those for one model.

    Raises
    ------
    RetainError : the model or a list of gates cannot be read, or none are known for the model.
    """
    known = published_gates(registry)
    if model is not None:
        known = gates_for(read_model_file(model), known)
    if as_json:
        print(json.dumps([asdict(gates) for gates in known]))
    else:
        console = Console(highlight=False, emoji=False, soft_wrap=True)
        for line in _lines(known):
            console.print(line)


def _lines(known: list[PublishedGates]) -> Iterator[Text]:
    """The gates under the models that they are for."""
    for base in dict.fromkeys(gates.base for gates in known):
        yield Text(safe_line(base), style="bold")
        for gates in known:
            if gates.base == base:
                facts = [f"{gates.kind}, licence {gates.license_text}"]
                facts += [f"trained on {gates.trained_on}"] if gates.trained_on else []
                facts += [f"budget {gates.trained_budget}"] if gates.trained_budget else []
                yield Text("  " + safe_line(f"{gates.place}: {', '.join(facts)}"))


def pull(
    model: Path,
    source: str | None,
    out: Path | None,
    weight_type: str,
    revision: str | None,
    registry: Path | None,
    force: bool,
) -> None:
    """Fetch published gates for a model, and print their licence and what is in them.

    Raises
    ------
    RetainError : see `choose_gates` and `pull_gates`.
    """
    if weight_type not in WEIGHT_TYPES:
        raise UsageError(f"outtype {weight_type!r} is not one of {', '.join(WEIGHT_TYPES)}")
    found = read_model_file(model)
    choice = choose_gates(found, source, registry)
    path = out or found.sidecar_path()
    console = Console(highlight=False, emoji=False, soft_wrap=True)

    def show_license(license: str) -> None:
        console.print(Text(f"licence of {choice.place}: {safe_line(license)}"))

    export = pull_gates(found, choice, path, weight_type, revision, force, show_license)
    console.print(Text(f"{choice.place} -> {path}"))
    console.print(facts_table(describe_sidecar(path)))
    for remark in export.remarks:
        logger.warning("%s", remark)
    if choice.others:
        logger.warning("others are published too; --from fetches one: %s", ", ".join(g.place for g in choice.others))


def tell_published(llm: Llama, asked: RetentionOptions) -> None:
    """Say in one line when a model runs without gates and some are published for it; nothing is fetched."""
    if llm.options.gates is not None or asked.policy != "auto" or asked.gates != AUTO_GATES:
        return
    hint = published_hint(llm.model_file)
    if hint is not None:
        logger.warning("%s", hint)
