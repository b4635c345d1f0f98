"""Results on disk: one JSON line for each conversation and arm, written as they come, so that a stopped run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import RetainError
from ..files import opened
from .record_checks import check_record, check_settings

FORMAT = "retain-local eval 1"


@dataclass(frozen=True)
class Record:
    """One conversation in one arm.

    arm, task : by name; method, budget : the parts of the arm.
    item : number of the conversation.
    scores : for each question, from 0 (wrong) to 1 (right); replies : what it was answered.
    n_prompt : tokens that the questions share; n_written : tokens of the replies after each one's first.
    n_budget : cells per (layer, KV head); n_cells : cells kept, in all, of what the questions share.
    bytes_peak : most bytes that the cells of this arm took in this task, up to this conversation.
    bytes_pool : bytes allocated for cells.
    bytes_archived : of the archive, when the conversation was read.
    read_seconds, write_seconds : for what is shared, and for the replies.
    kl, nll : of a text, for each token that is scored: divergence from the full cache, and negative log-likelihood, in
        nats. Its scores are whether the likeliest token is the full cache's.
    """

    arm: str
    method: str
    budget: str
    task: str
    item: int
    scores: list[float]
    replies: list[str]
    n_prompt: int
    n_budget: int
    n_cells: int
    n_written: int
    bytes_peak: int
    bytes_pool: int
    read_seconds: float
    write_seconds: float
    kl: list[float] = field(default_factory=list)
    nll: list[float] = field(default_factory=list)
    bytes_archived: int = 0

    @property
    def is_text(self) -> bool:
        """Whether a text was read and nothing was asked."""
        return bool(self.kl)

    @property
    def key(self) -> tuple[str, str, int]:
        return self.arm, self.task, self.item


class RecordFile:
    """The records of one run, kept in memory and, if there is a path, on disk.

    Parameters
    ----------
    path : file to write; None keeps them in memory alone. One that exists is resumed.
    settings : what decides the results. A file with other settings is refused.

    Raises
    ------
    RetainError : the file is none of ours, was made with other settings, or cannot be written.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self.path = path
        self.records: dict[tuple[str, str, int], Record] = {}
        self.settings = settings
        if path is not None and path.exists() and path.stat().st_size:
            self._read(path)
        elif path is not None:
            self._append(path, {"format": FORMAT, "settings": settings})

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records.values())

    def __len__(self) -> int:
        return len(self.records)

    def __contains__(self, key: tuple[str, str, int]) -> bool:
        return key in self.records

    def add(self, record: Record) -> None:
        self.records[record.key] = record
        if self.path is not None:
            self._append(self.path, asdict(record))

    def _append(self, path: Path, line: dict[str, Any]) -> None:
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            raise RetainError(f"{path} cannot be written: {error.strerror or error}") from None

    def _read(self, path: Path) -> None:
        settings, records, n_bytes = read_records(path)
        if settings != self.settings:
            differ = sorted(key for key in {*settings, *self.settings} if settings.get(key) != self.settings.get(key))
            raise RetainError(
                f"{path} holds results of another run: {', '.join(differ)} differ; name another file, or remove it"
            )
        self.records = {record.key: record for record in records}
        os.truncate(path, n_bytes)  # a run that was killed may have left half a line


def read_records(path: Path) -> tuple[dict[str, Any], list[Record], int]:
    """Settings and records of a file, and how many of its bytes are whole lines.

    Raises
    ------
    RetainError : the file is none of ours, or a line in it is damaged.
    """
    with opened(path) as file:
        data = file.read()
    n_bytes = data.rfind(b"\n") + 1
    lines = data[:n_bytes].splitlines()
    try:
        head = json.loads(lines[0])
        if head["format"] != FORMAT:
            raise ValueError
        settings = check_settings(head["settings"])
    except (IndexError, KeyError, TypeError, ValueError, RecursionError):
        raise RetainError(f"{path} is not a file of results; name another one") from None
    records: dict[tuple[str, str, int], Record] = {}
    for number, line in enumerate(lines[1:], 2):
        try:
            record = Record(**check_record(json.loads(line)))
            if record.key in records:
                raise ValueError("it is there twice")
            records[record.key] = record
        except (ValueError, RecursionError) as error:
            reason = "" if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)) else f" ({error})"
            raise RetainError(f"{path}: line {number} is damaged{reason}; remove it to go on without it") from None
    return settings, list(records.values()), n_bytes
