"""A conversation whose cache has an archive: saved, loaded, and what is said where only one side has one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chat.test_session import chat, say
from conftest import TinyFiles
from retain_local.chat.context_size import change_context
from retain_local.chat.session_file import read_session
from retain_local.chat.slash_commands import run_command
from retain_local.errors import RetainError
from support.llamas import DEFAULTS, text

ARCHIVE = {"archive": "1MiB", "recall": 0.25}


def archived(session: Any) -> list[list[int]]:
    retention = session.llm.retention
    lists = [(layer, head) for layer in retention.layers for head in range(retention.heads(layer))]
    return [np.sort(retention.archived(*one).ordinals).tolist() for one in lists]


def run_slash(session: Any, line: str) -> None:
    run_command(SimpleNamespace(session=session, note=lambda said: None, warn=lambda said: None), line)  # type: ignore[arg-type]


def test_saved_and_gone_on_with(tiny: TinyFiles, tmp_path: Path) -> None:
    session, other = chat(tiny, **ARCHIVE), chat(tiny, **ARCHIVE)
    say(session, text(300))
    session.save(tmp_path / "s")
    cells = archived(session)
    assert any(cells)
    expected = say(session, "and now")
    say(other, "something else")
    assert other.load(tmp_path / "s") == ""
    assert archived(other) == cells and say(other, "and now") == expected


def test_the_file_names_how_it_recalls(tiny: TinyFiles, tmp_path: Path) -> None:
    session = chat(tiny, **ARCHIVE)
    say(session, text(300))
    session.save(tmp_path / "s")
    named = read_session(tmp_path / "s").cache
    assert (named["archive"], named["archive type"], named["recall"]) == ("1MiB", "q8_0", "25%")


def test_where_there_is_no_archive_it_is_refused(tiny: TinyFiles, tmp_path: Path) -> None:
    session, other = chat(tiny, **ARCHIVE, archive_type="q8_0"), chat(tiny)
    say(session, text(300))
    session.save(tmp_path / "s")
    before = say(other, "abc"), other.tokens
    flags = "--archive 1MiB --archive-type q8_0 --recall 25%"
    message = f"holds an archive of evicted cells, and this chat has none; start it with {flags}"
    with pytest.raises(RetainError, match=message):
        other.load(tmp_path / "s")
    assert other.tokens == before[1]


def test_what_went_before_there_was_an_archive_is_named(tiny: TinyFiles, tmp_path: Path) -> None:
    session, other = chat(tiny, budget=48), chat(tiny, budget=64, **ARCHIVE)
    say(session, text(300))
    session.save(tmp_path / "s")
    remark = "it was saved without an archive: what was evicted by then cannot be recalled"
    assert other.load(tmp_path / "s") == remark
    assert say(other, "and now")


def test_nothing_was_evicted_yet(tiny: TinyFiles, tmp_path: Path) -> None:
    session, other = chat(tiny, **ARCHIVE), chat(tiny)
    say(session, "abc")
    session.save(tmp_path / "s")
    assert other.load(tmp_path / "s") == "" and other.tokens == session.tokens


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals here")
def test_a_save_that_is_killed_leaves_the_earlier_one(tiny: TinyFiles, tmp_path: Path) -> None:
    """Killed at the last moment: all bytes are written, and the file has not its name yet."""
    session = chat(tiny, **ARCHIVE)
    say(session, text(300))
    session.save(tmp_path / "s")
    before, cells = (tmp_path / "s").read_bytes(), archived(session)
    script = """
import os, sys
from retain_local import Llama
from retain_local.chat.generation import Sampling
from retain_local.chat.session import Session
model, gates, path, options = sys.argv[1:]
session = Session(Llama(model, gates=gates, **eval(options)), "", Sampling(temp=0, max_tokens=12))
session.load(path)
"".join(session.send("and now"))
os.replace = lambda *_: os.kill(os.getpid(), 9)
session.save(path)
"""
    options = DEFAULTS | {"budget": 64, "buffer": 16} | ARCHIVE
    arguments = [tiny.model("llama"), tiny.gates("llama"), tmp_path / "s", repr(options)]
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.returncode == -9, done.stderr
    assert len(list(tmp_path.iterdir())) == 2, "what it had written lies beside it"
    assert (tmp_path / "s").read_bytes() == before
    other = chat(tiny, **ARCHIVE)
    other.load(tmp_path / "s")
    assert archived(other) == cells


@pytest.mark.parametrize("in_file", [False, True])
def test_a_longer_context_takes_the_archive_along(tiny: TinyFiles, tmp_path: Path, in_file: bool) -> None:
    session = chat(tiny, **ARCHIVE, archive_file=tmp_path / "cells" if in_file else None)
    other = chat(tiny, **ARCHIVE)
    for each in (session, other):
        say(each, text(300))
    cells = archived(session)
    change_context(session.llm, n_ctx=2048)
    assert archived(session) == cells and say(session, "and now") == say(other, "and now")


def test_a_budget_lowered_below_the_context_has_the_archive_that_was_asked_for(tiny: TinyFiles) -> None:
    """While the budget covers the context nothing is evicted, and no archive is made."""
    session = chat(tiny, **ARCHIVE, n_ctx=512, budget=512)
    say(session, text(300))
    assert not session.llm.retention.stats().bytes_archive
    run_slash(session, "/budget 64")
    stats = session.llm.retention.stats()
    assert (stats.budget, stats.recall) == (64, 16) and stats.cells_kept == 48 * stats.cell_lists
    assert stats.cells_archived == stats.cells_seen - stats.cells_kept
    say(session, "and now")
    cells = archived(session)
    for covering in ("/budget 512", "/ctx 64"):
        with pytest.raises(RetainError, match="covers the context|too short"):
            run_slash(session, covering)
    assert archived(session) == cells


def test_a_longer_context_has_room_for_what_the_shorter_one_held(tiny: TinyFiles) -> None:
    """The budget covered the shorter context whole; of the longer one half is for recalled cells."""
    session = chat(tiny, archive="1MiB", recall=0.5, n_ctx=512, budget=512, n_ubatch=32)
    say(session, text(450))
    n_held = session.llm.retention.stats().cells_kept
    change_context(session.llm, n_ctx=2048, budget=512)
    stats = session.llm.retention.stats()
    assert stats.budget == 512 and stats.cells_kept + stats.cells_archived == n_held
    say(session, "and now")


def test_a_session_with_an_archive_in_a_chat_that_has_none_yet(tiny: TinyFiles, tmp_path: Path) -> None:
    session, other = chat(tiny, **ARCHIVE), chat(tiny, **ARCHIVE, budget=512, n_ctx=512)
    say(session, text(300))
    session.save(tmp_path / "s")
    with pytest.raises(RetainError, match="as its budget covers the context; choose a smaller one with /budget"):
        other.load(tmp_path / "s")
    run_slash(other, "/budget 64")
    other.load(tmp_path / "s")
    assert archived(other) == archived(session)
