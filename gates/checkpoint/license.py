"""The licence of a checkpoint, as its card states it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .layout import CheckpointError
from .read import Checkpoint
from .safetensors import MAX_HEADER

README_FILE = "README.md"


def checkpoint_license(checkpoint: Checkpoint) -> str | None:
    """The licence that `config.json`, or the front matter of the README beside the checkpoint, names; None for none.

    Raises
    ------
    CheckpointError : there is a README whose front matter, or whose licence, cannot be read.
    """
    readme = checkpoint.path.with_name(README_FILE)
    if checkpoint.about.license or not readme.is_file():
        return checkpoint.about.license or None
    return license_of(readme)


def license_of(readme: Path) -> str | None:
    """The licence that the front matter of a README names; None when it names none.

    One called "other" comes with its name and address, where they are given.

    Raises
    ------
    CheckpointError : the front matter, or the licence in it, cannot be read.
    """
    entries = _front_matter(readme)
    value = entries.get("license")
    names = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{readme}: its licence cannot be read: {value!r:.60}")
    more = [entries[key] for key in ("license_name", "license_link") if isinstance(entries.get(key), str)]
    if names and more:
        names = [*names, f"({', '.join(more)})"]
    return " ".join(names) or None


def _front_matter(readme: Path) -> Mapping[str, Any]:
    """The metadata at the start of a README; empty when there is none."""
    from huggingface_hub import metadata_load  # takes a while to import

    try:
        if readme.stat().st_size > MAX_HEADER:
            raise ValueError("it is too long")
        return metadata_load(readme) or {}
    except Exception as error:  # YAML makes many kinds of errors of what is none
        reason = str(error).strip().splitlines()
        raise CheckpointError(
            f"{readme}: its licence cannot be read: {reason[0][:100] if reason else 'no YAML'}"
        ) from None
