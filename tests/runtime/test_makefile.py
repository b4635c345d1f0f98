"""What `make test` installs, and how: a fresh machine has nothing that pip does not bring."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installations() -> list[str]:
    """The arguments of every `pip install` of `make test`, from its dry run."""
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    commands = subprocess.run(
        ["make", "--dry-run", "--always-make", "test"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return re.findall(r"pip --disable-pip-version-check install ([^}]*);", commands)


def test_only_what_needs_our_build_tools_is_built_without_isolation(installations: list[str]) -> None:
    """Others may ask for build tools of their own, as a source distribution that the tests need does."""
    not_isolated = [words for words in installations if "--no-build-isolation" in words]
    assert not_isolated == ['--no-build-isolation "$(cat .venv/sdist)"', "--no-build-isolation --editable ."]
    (extras,) = [words for words in installations if "[train,test]" in words]
    assert "--" not in extras


def test_ci_begins_with_an_empty_cache_of_pip(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "wheel").touch()
    make = tmp_path / "make"
    make.write_text('#!/bin/sh\necho "$@" "$PIP_CACHE_DIR" $(ls -A "$PIP_CACHE_DIR" | wc -l)\nexit 3\n')
    make.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PIP_CACHE_DIR": str(tmp_path / "used")}
    done = subprocess.run(["bash", ".ci/run"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    target, cache, n_files = done.stdout.split()
    assert (done.returncode, target, n_files) == (3, "test", "0")
    assert cache != str(tmp_path / "used") and not Path(cache).exists()
