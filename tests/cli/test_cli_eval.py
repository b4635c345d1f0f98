"""`retain-local eval` and `results` as a user runs them."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import TinyFiles
from support.command_line import COMMAND, TIMEOUT_S, environment, run
from support.llamas import text

ARCH = "qwen3"
# a token of the tiny models is a character: short texts
OPTIONS = ["--threads", "1", "--ubatch", "32", "--buffer", "8", "--sinks", "2"]
SHAPE = ["--tokens", "60", "--facts", "3", "--decoys", "1"]
QUESTIONS = ["--tasks", "single", "--policies", "window", "--budgets", "1/2,1/4", "--items", "9", *SHAPE]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with texts and a benchmark's file."""
    (tmp_path / "a.txt").write_text(text(300))
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "gsm8k.jsonl").write_text('{"question": "1+1?", "answer": "#### 2"}\n{"question": "1+2?"}\n')
    return tmp_path


def arguments(tiny: TinyFiles, *more: Any) -> list[Any]:
    return ["eval", tiny.model(ARCH), "--gates", tiny.gates(ARCH), *OPTIONS, *more]


def scores(table: str) -> str:
    """What was printed, without what the arms took, which differs by time."""
    return table.partition("What it took")[0]


def test_a_killed_run_goes_on_to_the_same_table(home: Path, tiny: TinyFiles) -> None:
    whole = run(home, *arguments(tiny, *QUESTIONS))
    assert whole.returncode == 0 and whole.stderr == "", whole.stderr
    assert "single fact, 9 questions" in whole.stdout and "What it took" in whole.stdout

    stopped = [*arguments(tiny, *QUESTIONS), "--json", "r.jsonl"]
    process = subprocess.Popen(
        [*COMMAND, *map(str, stopped)], cwd=home, env=environment(home), stdout=subprocess.DEVNULL
    )
    results, deadline = home / "r.jsonl", time.monotonic() + TIMEOUT_S
    while not results.exists() or results.read_bytes().count(b"\n") < 3:  # the settings, and two records
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(TIMEOUT_S)
    n_before = results.read_bytes().count(b"\n") - 1
    assert 2 <= n_before < 9, "it should have been killed half-way"

    resumed = run(home, *stopped)
    assert resumed.returncode == 0 and scores(resumed.stdout) == scores(whole.stdout)
    assert resumed.stderr == f"resuming: {n_before} of 9 conversations are in r.jsonl\n"
    shown = run(home, "results", "r.jsonl")
    assert shown.returncode == 0 and shown.stdout == resumed.stdout
    refused = run(home, *stopped, "--seed", "1")
    assert refused.returncode == 1 and "r.jsonl holds results of another run: seed differ" in refused.stderr


def test_questions_and_a_text_in_one_file(home: Path, tiny: TinyFiles) -> None:
    asked = ["--tasks", "single,text:a.txt", "--policies", "gate:head", "--budgets", "1/2", "--items", "2"]
    done = run(home, *arguments(tiny, *asked, *SHAPE, "--tokens", "120", "--json", "r.jsonl"))
    assert done.returncode == 0, done.stderr
    assert "single fact, 2 questions" in done.stdout
    assert "a.txt, against the full cache (PPL " in done.stdout and "gate:head" in done.stdout
    lines = [json.loads(line) for line in (home / "r.jsonl").read_text().splitlines()]
    assert [(line["arm"], line["task"], line["item"]) for line in lines[1:]] == [
        *((arm, "single", 0) for arm in ("full", "gate:head 1/2")),
        *((arm, "text:a.txt", window) for window in (0, 1) for arm in ("full", "gate:head 1/2")),
    ]
    shown = run(home, "results", "r.jsonl", "--markdown")
    assert shown.returncode == 0 and "| gate:head | 1/2 |" in shown.stdout


@pytest.mark.parametrize(
    "more, status, message",
    [
        (["--tasks", "dance"], 2, "task 'dance' is not one of single"),
        (["--tasks", "single,,lookup"], 2, "tasks 'single,,lookup' has an empty part"),
        (["--policies", "best"], 2, "policy 'best' is not one of gate"),
        (["--policies", "gate:row"], 2, "scope 'row' is not one of"),
        (["--budgets", "plenty"], 2, "budget 'plenty' is not a number of cells"),
        (["--budgets", "1/0"], 2, "budget '1/0' divides by zero"),
        (["--items", "0"], 2, "items is 0"),
        (["--tasks", "gsm8k:gsm8k.jsonl"], 1, "gsm8k.jsonl: line 2 has no field 'answer'"),
        (["--tasks", "gsm8k:absent.jsonl"], 1, "absent.jsonl: no such file"),
        (["--tasks", "text:absent.txt"], 1, "absent.txt cannot be read: No such file"),
        (["--tasks", "text:empty.txt"], 1, "empty.txt is empty"),
        (["--tasks", "text:a.txt", "--tokens", "256", "--ctx", "128"], 2, "window of 256 tokens is out of range"),
        (["--tasks", "single", *SHAPE, "--ctx", "64"], 1, "tokens is too long, the context of 64"),
        (["--tasks", "single", "--hops", "2"], 2, "--hops makes no difference to single"),
        (["--json", "a.txt", "--tasks", "single", *SHAPE], 1, "a.txt is not a file of results"),
    ],
)
def test_mistakes(home: Path, tiny: TinyFiles, more: list[str], status: int, message: str) -> None:
    done = run(home, *arguments(tiny, *more))
    assert done.returncode == status, done.stderr
    assert done.stdout == "" and done.stderr.count("\n") == 1 and message in done.stderr, done.stderr


def test_results_that_cannot_be_shown(home: Path) -> None:
    for name, message in (("absent.jsonl", "cannot be read: No such file"), ("a.txt", "is not a file of results")):
        done = run(home, "results", name)
        assert (done.returncode, done.stdout) == (1, "") and message in done.stderr and done.stderr.count("\n") == 1
