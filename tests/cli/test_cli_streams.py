"""Standard streams that are closed, full or read by nobody; home folders that are none."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from retain_local.paths import BUNDLED_MODEL
from support.command_line import COMMAND, TIMEOUT_S, environment

GATES = BUNDLED_MODEL.with_name("bundled.gates.gguf")
INSPECT = ["gates", "inspect", str(GATES)]
RUN = ["run", str(BUNDLED_MODEL), "--threads", "1", "--max-tokens", "3", "--ubatch", "32"]


def shell(home: Path, redirection: str, *arguments: str, **env: str | None) -> subprocess.CompletedProcess[str]:
    """Run a command with its streams redirected by the shell."""
    whole = {key: value for key, value in (environment(home) | env).items() if value is not None}
    done = subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *COMMAND, *arguments],
        env=whole,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    for sign in ("Traceback", "Exception ignored"):
        assert sign not in done.stderr, done.stderr
    return done


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", [["--help"], [*RUN, "-p", "hi"]])
def test_a_full_disk(tmp_path: Path, arguments: list[str]) -> None:
    done = shell(tmp_path, "> /dev/full", *arguments)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "retain-local: the output cannot be written: No space left on device"


def test_a_closed_output(tmp_path: Path) -> None:
    done = shell(tmp_path, ">&-", *INSPECT)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "standard output is closed" in done.stderr


def test_a_closed_input_is_an_empty_one(tmp_path: Path) -> None:
    done = shell(tmp_path, "<&-", *RUN)
    assert (done.returncode, done.stderr) == (1, "retain-local: the prompt is empty\n")


def test_closed_errors(tmp_path: Path) -> None:
    """What llama.cpp writes to its log must not end up in a file that was opened in place of the stream."""
    done = shell(tmp_path, "2>&-", *RUN, "-p", "hi", "--verbose")
    assert done.returncode == 0
    assert "llama" not in done.stdout


def test_a_reader_that_has_enough(tmp_path: Path) -> None:
    done = shell(tmp_path, "| true; exit ${PIPESTATUS[0]}", "gates", "inspect", str(GATES), "--json")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("home", "message"),
    [
        ("relative", "the home folder 'relative' is no absolute path"),
        ("{tmp}/file", "{tmp}/file/.local/share/retain-local cannot be made: Not a directory"),
    ],
)
def test_an_odd_home_folder(tmp_path: Path, home: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    env = {"HOME": home.format(tmp=tmp_path), "XDG_DATA_HOME": None, "HF_HOME": None}
    done = shell(tmp_path, "", *RUN, "-p", "hi", "--budget", "auto", **env)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert message.format(tmp=tmp_path) in done.stderr
    assert not (tmp_path / "relative").exists()
