"""llama-cpp-python's own tests pass on the patched libraries, those that download models aside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from support.libraries import PATCHED
from support.upstream import find_upstream

TESTS = Path(__file__).parents[1]

N_TESTS = 8  # those that need no download


def test_upstream_tests_pass(tmp_path: Path) -> None:
    upstream = find_upstream(tmp_path)
    # not in the distribution's own folder, whose `llama_cpp` is not the installed one
    workplace = tmp_path / "workplace"
    workplace.mkdir()
    (workplace / "vendor").symlink_to(upstream / "vendor")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "support.upstream", "-p", "no:cacheprovider", "-q", upstream / "tests"],
        cwd=workplace,
        env={
            **os.environ,
            "LLAMA_CPP_LIB_PATH": str(PATCHED),
            "MTMD_CPP_LIB": str(PATCHED),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")])),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) == N_TESTS, done.stdout[-1000:]
