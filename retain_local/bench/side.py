"""One side of a comparison, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..bindings import library, waiting
from ..errors import RetainError


class Side:
    """A worker process and what it is called.

    Parameters
    ----------
    libraries : folder of the llama.cpp that it loads.
    """

    def __init__(self, name: str, libraries: Path) -> None:
        self.name = name
        folder = str(libraries.absolute())
        environment = {
            **os.environ, library.LLAMA_VARIABLE: folder, library.MTMD_VARIABLE: folder,
            **waiting.environment(),  # for stock as for ours
            "OPENBLAS_NUM_THREADS": "1",  # the rate of reading memory is measured with threads of ours
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-m", "retain_local.bench.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            cwd=Path(__file__).parents[2],  # Python looks for the package there first, and not in the user's folder
        )  # fmt: skip

    def ask(self, command: str, **arguments: Any) -> Any:
        """Have a command carried out and return its result.

        Raises
        ------
        RetainError : it failed, or the process died.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RetainError(f"the process of {self.name} died; is there memory enough for its cache?")
        answer = json.loads(line)
        if "error" in answer:
            raise RetainError(f"measuring {self.name}: {answer['error']}")
        return answer["result"]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
