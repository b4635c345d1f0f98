"""The tools of the fuzzers: what they change, and what they say about a failure."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fuzz.mutate import mutate
from fuzz.run import run

DATA = bytes(range(256)) * 8


def test_data_changes_in_every_way() -> None:
    rng = np.random.default_rng(0)
    results = [mutate(rng, DATA) for _ in range(500)]
    assert sum(result == DATA for result in results) < 50
    lengths = [len(result) for result in results]
    assert min(lengths) < 64 and len(DATA) - 64 < sorted(set(lengths))[-40] and max(lengths) > len(DATA)
    assert sum(len(result) == len(DATA) for result in results) > 100
    assert all(isinstance(mutate(rng, b""), bytes) for _ in range(100))


def test_half_of_the_results_are_sealed() -> None:
    rng = np.random.default_rng(0)
    results = [mutate(rng, DATA, seal=lambda data: data + b"sealed") for _ in range(400)]
    assert 150 < sum(result.endswith(b"sealed") for result in results) < 250


class FailsAt:
    """Fails in the first case whose random number is large."""

    def __init__(self, folder: Path) -> None:
        self.drawn: list[float] = []

    def case(self, rng: np.random.Generator) -> None:
        self.drawn.append(rng.random())
        assert self.drawn[-1] < 0.9, "too large"


def test_a_failure_names_a_case_that_can_be_repeated(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="case [0-9]+ of seed 3: AssertionError: too large") as caught:
        run(FailsAt, tmp_path, seed=3, cases=1000)
    case = int(str(caught.value).split()[1])
    assert run(FailsAt, tmp_path, seed=3, cases=case) == case
    with pytest.raises(AssertionError, match=f"case {case} of seed 3"):
        run(FailsAt, tmp_path, seed=3, first=case, cases=1)


KILLS_ITSELF = """
import os, signal
from fuzz.run import main

class Killed:
    def __init__(self, folder):
        self.n = 0

    def case(self, rng):
        self.n += 1
        if self.n == 4:
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    main(Killed)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there are no such signals here")
def test_a_case_that_kills_the_process_is_named(tmp_path: Path) -> None:
    (tmp_path / "kills_itself.py").write_text(KILLS_ITSELF)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "kills_itself", "--first", "10", "--cases", "9"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "killed by SIGKILL in case 13" in done.stderr and "--first 13 --cases 1" in done.stderr
