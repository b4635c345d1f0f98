"""A few seconds of the fuzzers of the memory, the same cases every time."""

from __future__ import annotations

from pathlib import Path

from fuzz.operations import OperationFuzzer
from fuzz.run import run
from fuzz.states import StateFuzzer


def test_states(tmp_path: Path) -> None:
    assert run(StateFuzzer, tmp_path, cases=1500) == 1500


def test_operations(tmp_path: Path) -> None:
    assert run(OperationFuzzer, tmp_path, cases=60) == 60
