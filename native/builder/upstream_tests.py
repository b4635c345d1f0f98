"""Upstream's own tests of memories, run with contexts whose cells are in the pool.

They need models. One of the tests makes a random one of each architecture; two need a tokenizer, and get the bundled model.
"""

import pathlib
import subprocess
import tempfile

from console import say

BUNDLED = pathlib.Path(__file__).resolve().parents[2] / "retain_local" / "assets" / "bundled.gguf"
THREADS = "-ngl 0 -n 64 -c 256 -ub 32 -np 4 -t 2 -p".split()


def run_upstream_tests(directory):
    """Run the tests that were built into a directory; returns the names of those that failed."""
    failed = []
    with tempfile.TemporaryDirectory() as models:
        tests = {
            "llama-archs": ["-o", models],
            "save-load-state": ["--models", models],
            "recurrent-state-rollback": ["--models", models],
            "state-restore-fragmented": ["-m", str(BUNDLED)],
            "thread-safety": ["-m", str(BUNDLED), *THREADS, "Once upon a time"],
        }
        for name, arguments in tests.items():
            say(f"running upstream's test-{name}")
            program = directory / f"upstream-{name}"
            # state files are written to where a test runs
            if subprocess.run([program, *arguments], cwd=models).returncode:
                failed.append(name)
    return failed
