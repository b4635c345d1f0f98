"""The file that remembers what was typed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from retain_local.chat.history import LONGEST, PrivateHistory


def stored(path: Path) -> list[str]:
    return list(PrivateHistory(path).load_history_strings())


def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "history"
    PrivateHistory(path).store_string("a secret")
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)  # as an earlier version left it
    PrivateHistory(path).store_string("another")
    assert path.stat().st_mode & 0o777 == 0o600
    assert stored(path) == ["another", "a secret"]


def test_what_was_pasted_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "history"
    history = PrivateHistory(path)
    for text in ("before", "x" * (LONGEST + 1), "one\ntwo", "y" * LONGEST):
        history.store_string(text)
    assert stored(path) == ["y" * LONGEST, "one\ntwo", "before"]


def test_a_history_that_cannot_be_used_ends_no_chat(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "history"
    folder.mkdir()
    with caplog.at_level(logging.WARNING, "retain_local"):
        history = PrivateHistory(folder)
        assert list(history.load_history_strings()) == []
        history.store_string("a")
        history.store_string("b")
    assert len([r for r in caplog.records if "not remembered" in r.getMessage()]) == 1
