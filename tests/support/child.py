"""Programs that are run in a process of their own, to see how they end."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

TIMEOUT_S = 120

BEGINNING = """
import atexit, gc, os, sys, threading, time
from retain_local import Llama, RetainError

def load(path=sys.argv[1], **options):
    settings = dict(n_ctx=512, n_batch=64, n_ubatch=32, n_threads=1, n_threads_batch=1, policy="window", budget=128)
    return Llama(path, **(settings | options))
"""


def run_program(model: Path, body: str, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program to its end; `load()` in it loads the model, and `before` comes ahead of every import."""
    program = before + BEGINNING + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program, str(model)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=TIMEOUT_S,
    )
