"""Fetching published gates for a model: from the Hub to a sidecar beside it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from ...errors import RetainError, UsageError
from ...models.model_file import ModelFile
from ..checkpoint.license import license_of
from ..export import Export, export_checkpoint
from ..sidecar.file import check_out
from .match import fitting
from .registry import PublishedGates, published_gates

_PLACE = re.compile(r"(?P<hub>[\w.-]+/[\w.-]+)(?::(?P<file>.+))?", re.ASCII)

logger = logging.getLogger("retain_local")


@dataclass(frozen=True)
class Choice:
    """Where the gates are that will be fetched, what the list says of them (None: nothing), and which others there are."""

    hub: str
    file: str | None
    listed: PublishedGates | None
    others: tuple[PublishedGates, ...] = ()

    @property
    def place(self) -> str:
        return f"{self.hub}:{self.file}" if self.file else self.hub


def choose_gates(model: ModelFile, source: str | None, registry: Path | None = None) -> Choice:
    """The gates to fetch for a model: the first in the list that are for it, or those that were named.

    Parameters
    ----------
    source : `OWNER/REPO` or `OWNER/REPO:FILE`; None: as the list says.
    registry : a further list of published gates.

    Raises
    ------
    UsageError : `source` is no repository.
    RetainError : the list cannot be read, or has none for the model.
    """
    known = published_gates(registry)
    if source is not None:
        match = _PLACE.fullmatch(source)
        if match is None:
            raise UsageError(f"{source} is no repository on the Hub; name OWNER/REPO or OWNER/REPO:FILE")
        listed = next((gates for gates in known if gates.place == source), None)
        return Choice(match["hub"], match["file"], listed)
    ours = gates_for(model, known)
    return Choice(ours[0].hub, ours[0].file, ours[0], tuple(ours[1:]))


def gates_for(model: ModelFile, known: list[PublishedGates]) -> list[PublishedGates]:
    """The published gates that are for a model, the one to prefer first.

    Raises
    ------
    RetainError : none are; the message names those for models of its sizes.
    """
    ours, sized = fitting(known, model)
    if ours:
        return ours
    advice = (
        f"those for {', '.join(sorted({gates.base for gates in sized}))} have its sizes; if it is that model, choose with"
        f" --from: {', '.join(gates.place for gates in sized)}"
        if sized
        else "make some with `retain-local gates calibrate` or `gates train`, or name a repository with --from"
    )
    raise RetainError(f"no published gates are known for {model.name} ({model.path.name}); {advice}")


def pull_gates(
    model: ModelFile,
    choice: Choice,
    out: Path,
    weight_type: str,
    revision: str | None,
    force: bool,
    show_license: Callable[[str], None],
) -> Export:
    """Fetch gates and write them to a sidecar for the model, all or nothing.

    Parameters
    ----------
    out : the sidecar.
    weight_type : f32, f16 or q8_0.
    revision : a branch, a tag or a commit of the repository; None: the main branch.
    force : replace `out` if it is there.
    show_license : is told the licence, as the card states it, before the gates are fetched.

    Raises
    ------
    RetainError : `out` is there or cannot be written, the repository cannot be reached, its licence cannot be read, or its
        gates do not fit the model.
    """
    from ..checkpoint.hub import fetch_card, fetch_checkpoint  # takes a while to import

    check_out(out, force, model.path)
    card = fetch_card(choice.hub, revision)
    try:
        license = license_of(card) if card is not None else None
    except RetainError as error:
        raise RetainError(
            f"{choice.hub} is not fetched: {error}; read its page, and if you may use it: retain-local gates export"
            f" {choice.place} {quote(str(out))} --base {quote(str(model.path))}"
        ) from None
    show_license(license or "none found: its card states no licence, so ask its authors before you pass it on")
    fetched = fetch_checkpoint(choice.hub, revision, choice.file)
    file = f":{choice.file}" if choice.file else ""
    return export_checkpoint(
        fetched.path,
        out,
        weight_type,
        base=model.path,
        source_name=f"{choice.hub}@{fetched.commit}{file}",
        license=license,
        trained_on=choice.listed.trained_on if choice.listed is not None else None,
    )


def published_hint(model: ModelFile) -> str | None:
    """One line for who runs a model without gates, when some are published for it; None when none are."""
    try:
        ours, _ = fitting(published_gates(), model)
    except RetainError as error:
        return str(error)  # a list of the user's own that is wrong should be heard of, and stop nothing
    if not ours:
        return None
    more = f", and {len(ours) - 1} more" if len(ours) > 1 else ""
    return (
        f"gates for this model are published ({ours[0].place}, licence {ours[0].license_text}{more}):"
        f" `retain-local gates pull {quote(str(model.path))}` fetches them"
    )
