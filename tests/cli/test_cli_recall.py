"""Recall from the command line: what each command takes, tells, and refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from conftest import TinyFiles
from support.command_line import FAST, run
from support.llamas import text
from support.pages import CHROMIUM, Page, browse

ARCHIVE = ["--archive", "1MiB"]
SMALL = ["--threads", "1", "--ubatch", "16", "--buffer", "16"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a text."""
    (tmp_path / "a.txt").write_text(text(500))
    return tmp_path


def command(home: Path, tiny: TinyFiles, name: str, *arguments: Any, **more: Any) -> Any:
    return run(home, name, tiny.model("llama"), "--gates", tiny.gates("llama"), *arguments, **more)


def test_a_reply_tells_the_archive_apart(home: Path, tiny: TinyFiles) -> None:
    options = [*FAST, "--budget", "64", *ARCHIVE, "--ubatch", "16", "--max-tokens", "4", "--temp", "0"]
    done = command(home, tiny, "run", "-f", "a.txt", "--json", *options)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["retention"]
    assert (found["budget"], found["residents"], found["recall"]) == (64, 48, 16)
    assert found["cells_kept"] + found["cells_archived"] == found["cells_seen"] and found["bytes_archived"] > 0
    done = command(home, tiny, "run", "-f", "a.txt", *options)
    assert re.search(r"KV [\d.]+ KB of [\d.]+ KB \+ [\d.]+ KB archived", done.stderr), done.stderr


def test_a_chat_shows_its_archive(home: Path, tiny: TinyFiles) -> None:
    options = [*FAST, "--budget", "64", *ARCHIVE, "--ubatch", "16", "--max-tokens", "4", "--recall", "1/2"]
    done = command(home, tiny, "chat", *options, stdin=f"{text(300)}\n/stats\n/cache\n/save s\n")
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())  # cells of a table are on several lines
    assert "32 of them in the cache and 32 recalled" in shown and "evicted cells, room for" in shown
    assert "archived only" in shown and "archive in use" in shown
    done = command(home, tiny, "chat", *FAST, "--budget", "64", "--ubatch", "16", "--archive", "0", stdin="/load s\n")
    assert "s holds an archive of evicted cells, and this chat has none; start it with --archive 1MiB" in done.stderr


def test_a_chat_and_a_run_have_an_archive(home: Path, tiny: TinyFiles) -> None:
    options = [*FAST, "--budget", "64", "--ubatch", "16", "--max-tokens", "4", "--temp", "0"]
    for gates in ((), ("--gates", "none")):  # the last of an option given twice counts
        done = command(home, tiny, "run", "-f", "a.txt", "--json", *options, *gates)
        found = json.loads(done.stdout)["retention"]
        assert (found["residents"], found["recall"]) == (48, 16), done.stderr
        assert 2**29 - 2**20 < found["bytes_archive"] <= 2**29  # whole pages
        assert ("looks others up in the archive" in done.stderr) == bool(gates)
    done = command(home, tiny, "chat", *options, stdin=f"{text(300)}\n")
    assert " archived" in done.stderr
    done = command(home, tiny, "run", "-f", "a.txt", "--json", *options, "--ctx", "768", "--budget", "768")
    assert json.loads(done.stdout)["retention"]["bytes_archive"] == 0


def test_an_evaluation_with_and_without(home: Path, tiny: TinyFiles) -> None:
    shape = ["--tokens", "60", "--facts", "3", "--decoys", "1", "--items", "2", "--budgets", "1/4"]
    done = command(home, tiny, "eval", *SMALL, *ARCHIVE, "--tasks", "single,text:a.txt", *shape, "--json", "r.jsonl")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    records = [json.loads(line) for line in (home / "r.jsonl").read_text().splitlines()[1:]]
    by_method: dict[str, list[Any]] = {}
    for record in records:
        by_method.setdefault(record["method"], []).append(record)
    policies = ("gate", "window", "random")
    assert set(by_method) == {"full", *policies, *(f"{name} +25% recall" for name in policies)}
    for name in policies:
        plain, recalling = by_method[name], by_method[f"{name} +25% recall"]
        assert [one["n_budget"] for one in plain] == [one["n_budget"] for one in recalling], (
            "equal bytes but for the archive"
        )
        assert all(one["bytes_archived"] == 0 for one in plain) and all(one["bytes_archived"] > 0 for one in recalling)
        assert all(a["n_cells"] < b["n_cells"] for a, b in zip(recalling, plain))
    shown = run(home, "results", "r.jsonl", "--markdown")
    assert shown.returncode == 0 and "| gate +25% recall | 1/4 |" in shown.stdout and "| archived |" in shown.stdout


def test_keys_that_eviction_loses_are_found(home: Path) -> None:
    """On the bundled model: one of 48 random keys is asked for, with a sixteenth of the cells."""
    options = ["--tasks", "lookup", "--items", "24", "--policies", "gate", "--budgets", "1/16", "--sinks", "0"]
    chunks = ["--ubatch", "16", "--buffer", "16", "--threads", "1", "--archive", "16MiB", "--json", "r.jsonl"]
    done = run(home, "eval", "bundled", *options, *chunks)
    assert done.returncode == 0, done.stderr
    scores: dict[str, float] = {}
    for line in (home / "r.jsonl").read_text().splitlines()[1:]:
        record = json.loads(line)
        scores[record["method"]] = scores.get(record["method"], 0) + sum(record["scores"])
    assert scores["full"] >= 20 and scores["gate"] <= 8 and scores["gate +25% recall"] >= 16, scores


def test_an_audit_says_what_recall_gains(home: Path, tiny: TinyFiles) -> None:
    options = [*SMALL, *ARCHIVE, "--text", "a.txt", "--budgets", "1/4", "--max-kl", "100", "--json", "a.json"]
    done = command(home, tiny, "audit", *options, "--report", "page.html")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    found = json.loads((home / "a.json").read_text())
    assert [(one["budget"], one["recall"]) for one in found["budgets"]] == [("1/4", 0), ("1/4", 0.25)]
    plain, recalling = found["budgets"]
    assert plain["cells"] == recalling["cells"] and plain["bytes_archived"] == 0 < recalling["bytes_archived"]
    assert recalling["bytes_peak"] < plain["bytes_peak"]
    assert "What recall gains over the same budget without it" in done.stdout and "1/4 +25%" in done.stdout
    assert found["recommended"] == {"budget": "1/4", "cells": 125, "recall": 0}, (
        "of two as large the one that recalls less"
    )

    page = Page((home / "page.html").read_text(encoding="utf-8"))
    (table,) = (one for one in page.tables if one[0][:3] == ["budget", "KL without", "KL"])
    kl = [f"{one['summary']['kl_mean']:.4f}" for one in (plain, recalling)]
    assert table[1][:3] == ["1/4 +25%", *kl]


def test_what_is_recalled_is_drawn_and_used(home: Path, tiny: TinyFiles) -> None:
    """An audit of recall alone: its page shows what was recalled, and its budget is for caches that recall as much."""
    options = [*SMALL, *ARCHIVE, "--recall", "50%", "--text", "a.txt", "--budgets", "1/4", "--max-kl", "100"]
    done = command(home, tiny, "audit", *options, "--report", "page.html")
    assert done.returncode == 0, done.stderr
    assert "125 cells, 1/4 of the longest text, 50% of them for recalled cells" in done.stdout
    assert "--budget auto" in done.stdout and done.stdout.rstrip().endswith("--archive 1MiB --recall 50%")
    html = (home / "page.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)[1])
    assert len(data["recalled"]) == 500 and sum(data["recalled"]) > 0
    assert [step[:2] for step in data["steps"][-2:]] == [[498, 499], [499, 500]], "the last tokens one by one"
    assert all(0 <= token < start for start, _, named in data["steps"] for token, _ in named)
    assert "What was recalled while the text was read" in html
    if CHROMIUM is not None:  # point at the last token
        point = (
            "document.querySelector('.text p:last-of-type i:last-child').dispatchEvent(new PointerEvent('pointerover',"
        )
        (home / "pointed.html").write_text(f"{html}<script>{point}{{bubbles: true}}))</script>", encoding="utf-8")
        document, complaints = browse(home / "pointed.html", home / "profile")
        assert not complaints and len(re.findall(r'class="h\d+ r"', document)) == len(data["steps"][-1][2]) > 0

    used = [*FAST, "--temp", "0", "--max-tokens", "3", "--budget", "auto", "-p", "abc", "--json"]
    with_recall = command(home, tiny, "run", *used, *ARCHIVE, "--recall", "50%")
    assert json.loads(with_recall.stdout)["retention"]["budget"] == 125
    without = command(home, tiny, "run", *used)
    assert without.returncode == 1 and "no audit has recommended a budget" in without.stderr


def test_the_benchmark_counts_the_archive(home: Path, tiny: TinyFiles) -> None:
    options = ["--anyway", "--depths", "300", "--tokens", "4", "--repeat", "1", "--threads", "1", "--ubatch", "32"]
    done = command(home, tiny, "bench", *options, "--budget", "64", "--buffer", "16", *ARCHIVE, "--json", "b.json")
    assert done.returncode == 0, done.stderr
    numbers = json.loads((home / "b.json").read_text())
    stats = numbers["depths"][0]["sides"]["retain-local"]["stats"]
    assert stats["n_archived"] > 0 and stats["residents"] == 48 and "archived" in done.stdout
    assert "archive 1MiB" in done.stdout and "recall 25%" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["run", "-p", "a", "--archive", "0", "--recall", "25%"], 2, "recall 25% needs an archive"),
        (
            ["run", "-p", "a", "--archive", "0", "--archive-type", "q8_0"],
            2,
            "archive-type q8_0 is the type of an archive",
        ),
        (["eval", "--tasks", "single", "--archive-type", "q8_0"], 2, "archive-type q8_0 is the type of an archive"),
        (["run", "-p", "a", "--archive", "512"], 2, "archive '512' has no unit; write 512MiB"),
        (["run", "-p", "a", *ARCHIVE, "--recall", "95%"], 2, "recall '95%' is not a share of the budget"),
        (["run", "-p", "a", *ARCHIVE, "--archive-file", "absent/a"], 2, "there is no folder absent"),
        (
            ["run", "-p", "a", *ARCHIVE, "--archive-file", "a.txt", "--budget", "64"],
            1,
            "not an archive, or a damaged one",
        ),
        (["run", "-p", "a", *ARCHIVE, "--archive-type", "f16"], 2, "f16"),
        (["eval", "--tasks", "single", "--recall", "0,25%"], 2, "recall 25% needs an archive"),
        (["eval", "--tasks", "single", *ARCHIVE, "--recall", "0,half"], 2, "recall 'half' is not a share"),
        (
            ["eval", "--tasks", "lookup", "--items", "1", "--ctx", "8192", *ARCHIVE, "--budgets", "4"],
            2,
            "a budget of 4 less the 25% of it that are recalled is less than the 4 cells that --sinks",
        ),
        (
            ["bench", "--anyway", "--depths", "300", "--budget", "64", "--archive", "1KiB"],
            1,
            "measuring retain-local: no context of",
        ),
        (["audit", "--text", "a.txt", "--recall", "25%"], 2, "recall 25% needs an archive"),
    ],
)
def test_mistakes(home: Path, tiny: TinyFiles, arguments: list[str], status: int, message: str) -> None:
    name, *rest = arguments
    done = command(home, tiny, name, *rest)
    assert done.returncode == status and done.stdout == "" and message in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
