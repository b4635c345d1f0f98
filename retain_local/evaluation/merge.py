"""Results of several files, to be shown in one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .arms import FULL
from .records import Record, read_records

Results = dict[str, list[Record]]  # by label; "" is none


def read_results(files: Sequence[str]) -> Results:
    """The records of all files, those of files with the same label together.

    Parameters
    ----------
    files : ``FILE`` or ``LABEL=FILE``.

    Raises
    ------
    RetainError : a file cannot be read, or is none of ours.
    UsageError : two files hold the same arm of the same task, and no label tells them apart.
    """
    merged: dict[str, dict[tuple[str, str, int], Record]] = {}
    for file in files:
        label, path = _split(file)
        known = merged.setdefault(label, {})
        for record in read_records(path)[1]:
            earlier = known.setdefault(record.key, record)
            if earlier is not record and not (record.arm == FULL and record.scores == earlier.scores):
                raise UsageError(
                    f"{path} holds {record.arm} of task {record.task} once more; tell it apart with a label: NAME={path}"
                )
    return {label: list(records.values()) for label, records in merged.items() if records}


def read_settings(files: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Label and settings of each file, named as for `read_results`."""
    return [(label, read_records(path)[0]) for label, path in map(_split, files)]


def _split(file: str) -> tuple[str, Path]:
    label, equals, path = file.partition("=")
    return (label, Path(path)) if equals and not Path(file).exists() else ("", Path(file))
