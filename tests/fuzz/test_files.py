"""A few seconds of the fuzzers of files, the same cases every time."""

from __future__ import annotations

from pathlib import Path

from fuzz.checkpoints import CheckpointFuzzer
from fuzz.models import ModelFuzzer
from fuzz.results import ResultsFuzzer
from fuzz.run import run
from fuzz.sessions import SessionFuzzer
from fuzz.sidecars import SidecarFuzzer
from fuzz.templates import TemplateFuzzer


def test_models(tmp_path: Path) -> None:
    assert run(ModelFuzzer, tmp_path, cases=200) == 200


def test_sidecars(tmp_path: Path) -> None:
    assert run(SidecarFuzzer, tmp_path, cases=600) == 600


def test_results(tmp_path: Path) -> None:
    assert run(ResultsFuzzer, tmp_path, cases=300) == 300


def test_sessions(tmp_path: Path) -> None:
    assert run(SessionFuzzer, tmp_path, cases=300) == 300


def test_templates(tmp_path: Path) -> None:
    assert run(TemplateFuzzer, tmp_path, cases=60) == 60


def test_checkpoints(tmp_path: Path) -> None:
    assert run(CheckpointFuzzer, tmp_path, cases=300) == 300
