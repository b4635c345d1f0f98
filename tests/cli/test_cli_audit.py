"""`retain-local audit`, and `--budget auto` after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pexpect
import pytest

from conftest import TinyFiles
from support.command_line import COMMAND, FAST, TIMEOUT_S, environment, run
from support.llamas import text

OPTIONS = ["--threads", "1", "--ubatch", "16", "--buffer", "16"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with two texts."""
    (tmp_path / "a.txt").write_text(text(600))
    (tmp_path / "b.txt").write_text(text(300, 1))
    return tmp_path


def audit(home: Path, tiny: TinyFiles, *arguments: Any, **more: Any) -> Any:
    return run(home, "audit", tiny.model("llama"), "--gates", tiny.gates("llama"), *OPTIONS, *arguments, **more)


def recommendations(home: Path) -> list[Path]:
    return list(home.glob("retain-local/recommendations/*.json"))


def test_a_recommendation_is_shown_kept_and_used(home: Path, tiny: TinyFiles) -> None:
    done = audit(home, tiny, "--text", "a.txt", "b.txt", "--budgets", "1/2,1/8,700", "--max-kl", "100")
    assert done.returncode == 0, done.stderr
    assert "m.gguf" not in done.stdout and "llama.gguf, policy gate" in done.stdout
    assert "2 files, 902 tokens" in done.stdout and "covers" in done.stdout
    assert "recommended: 75 cells, 1/8 of the longest text" in done.stdout
    assert "a.txt" in done.stdout and "b.txt" in done.stdout
    used = ["--gates", tiny.gates("llama"), *FAST, "--temp", "0", "--max-tokens", "3", "--budget", "auto"]
    for command, stdin in ((["run", "-p", "abc", "--json"], ""), (["chat"], "abc\n")):
        name, *rest = command
        done = run(home, name, tiny.model("llama"), *rest, *used, stdin=stdin)
        assert done.returncode == 0, done.stderr
        (line,) = (line for line in done.stderr.splitlines() if line.startswith("budget "))
        assert line.startswith("budget 75, as an audit recommended for mean KL at most 100: mean KL ")
        if name == "run":
            assert json.loads(done.stdout)["retention"]["budget"] == 75


def test_no_budget_within_the_bound(home: Path, tiny: TinyFiles) -> None:
    assert audit(home, tiny, "--text", "b.txt", "--max-kl", "100").returncode == 0
    assert len(recommendations(home)) == 1
    done = audit(home, tiny, "--text", "b.txt", "--max-kl", "0")
    assert done.returncode == 2 and done.stderr == ""
    assert "no budget is within the bound (mean KL at most 0)" in done.stdout
    assert "the recommendation of an earlier audit is taken back" in done.stdout and not recommendations(home)


def test_texts_too_short_to_evict(home: Path, tiny: TinyFiles) -> None:
    assert audit(home, tiny, "--text", "b.txt", "--max-kl", "100").returncode == 0
    done = audit(home, tiny, "--text", "b.txt", "--budgets", "1000", "--max-kl", "100")
    assert done.returncode == 2 and "nothing was evicted" in done.stdout and "buffer (16)" in done.stdout
    assert len(recommendations(home)) == 1, "this audit showed nothing, so the earlier one stands"


def test_nothing_is_kept_unless_wanted(home: Path, tiny: TinyFiles) -> None:
    done = audit(home, tiny, "--text", "b.txt", "--max-kl", "100", "--no-store")
    assert done.returncode == 0 and "recommended" in done.stdout and not recommendations(home)
    assert "--budget auto" not in done.stdout


def test_the_way_to_use_it_is_spelled_out(home: Path, tiny: TinyFiles) -> None:
    done = audit(
        home, tiny, "--text", "b.txt", "--max-kl", "100", "--policy", "window", "--scope", "head", COLUMNS="80"
    )
    wanted = f"--budget auto --policy window --scope head --gates {tiny.gates('llama')}"
    assert done.stdout.rstrip().endswith(wanted)


def test_json_and_windows(home: Path, tiny: TinyFiles) -> None:
    done = audit(
        home, tiny, "--text", "a.txt", "--window", "256", "--min-agreement", "0", "--json", "out.json", "--worst", "0"
    )
    assert done.returncode == 0, done.stderr
    assert "601 tokens in 3 windows" not in done.stdout and "603 tokens in 3 windows" in done.stdout
    assert "Worst places" not in done.stdout
    found = json.loads((home / "out.json").read_text(encoding="utf-8"))
    assert len(found["texts"]) == 3 and [one["budget"] for one in found["budgets"]] == ["1/2", "1/4", "1/8", "1/16"]
    assert found["gates"] and found["policy"] == "gate" and found["recommended"]["budget"] == "1/16"
    assert found["bound"] == {"max_kl": None, "min_agreement": 0}


def test_a_text_on_stdin(home: Path, tiny: TinyFiles) -> None:
    done = audit(home, tiny, "--text", "-", "--max-kl", "100", stdin=text(300))
    assert done.returncode == 0 and "1 file, 301 tokens" in done.stdout


def test_a_policy_taken_for_want_of_gates_is_named(home: Path, tiny: TinyFiles) -> None:
    done = run(home, "audit", tiny.model("qwen3"), *OPTIONS, "--text", "b.txt", "--max-kl", "100")
    assert done.returncode == 0 and "policy window" in done.stdout
    assert done.stderr.startswith("no gates at ") and done.stderr.count("\n") == 1


def test_reading_further_than_in_training(home: Path, tiny: TinyFiles) -> None:
    (home / "long.txt").write_text(text(5000))
    done = audit(home, tiny, "--text", "long.txt")
    assert done.returncode == 1 and "long.txt has 5,001 tokens, more than the context of 4,096" in done.stderr
    options = ["--ctx", "5120", "--rope-freq-base", "40000", "--ubatch", "512", "--budgets", "64", "--max-kl", "100"]
    done = audit(home, tiny, "--text", "long.txt", *options)
    assert done.returncode == 0 and "1 file, 5,001 tokens" in done.stdout
    assert "longer than the 4096 the model was trained for" in done.stderr


def test_progress_at_a_terminal(home: Path, tiny: TinyFiles) -> None:
    (home / "long.txt").write_text(text(3000))
    child = pexpect.spawn(
        COMMAND[0],
        [*COMMAND[1:], "audit", str(tiny.model("llama")), "--gates", "none", *OPTIONS, "--text", "long.txt"],
        env=environment(home, TERM="xterm"),
        cwd=str(home),
        dimensions=(40, 140),
        timeout=TIMEOUT_S,
        encoding="utf-8",
    )
    child.expect("reading the texts")
    child.expect(r"\d+% .*tok/s.* \S*\d:\d\d:\d\d\S* left")  # with codes of colours between them
    child.expect("Worst places")
    child.expect(pexpect.EOF)


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        ([], 2, "Missing option '--text'"),
        (["--text", "absent.txt"], 1, "absent.txt cannot be read: No such file"),
        (["--text", "."], 1, ". cannot be read"),
        (["--text", "empty.txt"], 1, "empty.txt is empty: there is nothing to predict"),
        (["--text", "latin1.txt"], 1, "latin1.txt is not UTF-8 text (byte 1)"),
        (["--text", "a.txt", "a.txt"], 2, "a.txt is named twice"),
        (["--text", "a.txt", "--ctx", "256"], 1, "a.txt has 601 tokens, more than the context of 256: cut it with"),
        (["--text", "a.txt", "--budgets", "half"], 2, "budget 'half' is not"),
        (["--text", "a.txt", "--budgets", "3/2"], 2, "budget '3/2' is not"),
        (["--text", "a.txt", "--budgets", "1/0"], 2, "divides by zero"),
        (["--text", "a.txt", "--budgets", ""], 2, "budget '' is not"),
        (["--text", "short.txt", "--budgets", "1/2"], 2, "short.txt has 4 tokens; at the budget 1/2 sinks (4)"),
        (["--text", "a.txt", "--budgets", "2"], 2, "sinks (4) and recent (0) together are more than the budget of 2"),
        (["--text", "a.txt", "--max-kl", "-1"], 2, "max-kl is -1.0; it must be"),
        (["--text", "a.txt", "--min-agreement", "95"], 2, "min-agreement is 95.0; it must be a share"),
        (["--text", "a.txt", "--window", "3"], 2, "window of 3 tokens is out of range"),
        (["--text", "a.txt", "--policy", "best"], 2, "policy 'best' is not one of"),
        (["--text", "a.txt", "--policy", "none"], 2, "'none' never evicts"),
        (["--text", "a.txt", "--json", "absent/out.json"], 2, "its folder is missing"),
        (["--text", "a.txt", "--json", "."], 2, "it is a folder"),
        (["--text", "a.txt", "--ubatch", "0"], 2, "ubatch is 0; it must be a whole number from 1"),
    ],
)
def test_mistakes(home: Path, tiny: TinyFiles, arguments: list[str], status: int, message: str) -> None:
    (home / "latin1.txt").write_bytes(b"h\xe9llo")
    (home / "empty.txt").write_bytes(b"")
    (home / "short.txt").write_text(text(3))
    done = audit(home, tiny, *arguments)
    assert done.returncode == status, done.stderr
    assert done.stdout == "" and done.stderr.count("\n") == 1 and message in done.stderr, done.stderr


def test_auto_without_an_audit(home: Path, tiny: TinyFiles) -> None:
    for command in (["chat"], ["run", "-p", "abc"]):
        name, *rest = command
        done = run(home, name, tiny.model("llama"), *rest, "--budget", "auto", stdin="abc\n")
        assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
        assert "no audit has recommended a budget" in done.stderr and "retain-local audit" in done.stderr
