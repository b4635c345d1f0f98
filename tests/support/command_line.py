"""Running the command line as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-c", "from retain_local.cli import main; main()"]
TIMEOUT_S = 120

# one thread: shared machines make a second one wait
FAST = ["--threads", "1", "--ubatch", "32", "--batch", "64"]


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment with a data folder of the test's own, plain output and no network."""
    return {
        **os.environ,
        "XDG_DATA_HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "100",
        "TERM": "dumb",
        **more,
    }


def run(home: Path, *arguments: Any, stdin: str | bytes = b"", **more: str) -> subprocess.CompletedProcess[str]:
    """Run retain-local to its end in the folder `home`, which also takes its data; `more` is environment."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        cwd=home,
        env=environment(home, **more),
        timeout=TIMEOUT_S,
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in err, err
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)
