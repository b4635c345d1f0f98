"""`retain-local demo`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from retain_local.paths import BUNDLED_MODEL
from support.command_line import run
from support.libraries import require_patched

require_patched()

from retain_local.demo import is_right  # noqa: E402  needs the libraries

bundled = pytest.mark.skipif(not BUNDLED_MODEL.exists(), reason="the bundled model was not made yet")


@pytest.mark.parametrize(
    "answer, right",
    [
        ("Fact: Anna green river.", True),
        ("green river", True),
        ("Fact: Anna red river.", False),
        ("river", False),
        ("", False),
    ],
)
def test_answers(answer: str, right: bool) -> None:
    assert is_right(answer, "Fact: Anna green river.") == right


@bundled
def test_it_shows_what_each_cache_kept(tmp_path: Path) -> None:
    done = run(tmp_path, "demo")
    assert done.returncode == 0, done.stderr
    full, gate, window = (
        int(n) for n in re.search(r"right .* (\d) of 8 .* (\d) of 8 .* (\d) of 8", done.stdout).groups()
    )
    assert full >= 7 and gate > window
    assert "full cache" in done.stdout and "gate, budget 64" in done.stdout and "cells kept" in done.stdout


def test_without_the_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from retain_local import demo
    from retain_local.errors import RetainError

    monkeypatch.setattr(demo, "BUNDLED_MODEL", tmp_path / "absent.gguf")
    with pytest.raises(RetainError, match="the bundled model is not there"):
        demo.run_demo(budget=64, document_tokens=512, seed=0)
