"""The server's program: built into the cache directory when it is first asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ..bindings import library
from ..errors import RetainError

VARIABLE = "RETAIN_SERVER"
SOURCES = Path(__file__).parents[1] / "bench" / "native"  # the native part, as the wheel holds it
_OPTIONS = "build-options.txt"  # beside the libraries: what they were built with


def server_program() -> Path:
    """The program, built now where it is not up to date; the first time that takes minutes, and one line says so.

    Raises
    ------
    RetainError : it cannot be built, or what `RETAIN_SERVER` names is no file.
    """
    if named := os.environ.get(VARIABLE):
        if not Path(named).is_file():
            raise RetainError(f"{VARIABLE}={named} is no file; unset it, and the server is built")
        return Path(named)
    command = [sys.executable, os.fspath(SOURCES / "builder"), "server", *_build_options()]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RetainError("the server could not be built; what is missing is said above")
    return Path(done.stdout.splitlines()[-1])


def _build_options() -> list[str]:
    """The options that the libraries in use were built with."""
    path = library.packaged() / _OPTIONS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [word for line in lines for word in ("-D", line)]
