"""Rendering chat templates in a process of its own, so that none of them takes this one's time or memory."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import RetainError
from ..terminal.safe_text import safe_line

_PROGRAM = Path(__file__).with_name("render_child.py")
_START = "import runpy, sys; program, *sys.path[:] = sys.argv[1:]; runpy.run_path(program, run_name='__main__')"
_SECONDS = 60  # for a system that does not limit a process's own seconds, and for one that is very busy


class BadTemplate(RetainError):
    """A template that Jinja cannot compile."""


_STAGES = {
    "compile": (BadTemplate, "is not valid"),
    "render": (RetainError, "fails"),
    "refuse": (RetainError, "refuses the conversation"),
}


def check_template(template: str) -> None:
    """Compile a template.

    Raises
    ------
    BadTemplate : it is not valid, or takes too much time or memory.
    """
    _child.ask(template, None)


def render_template(template: str, variables: Mapping[str, Any]) -> str:
    """The text that a template makes of variables, which can be written as JSON.

    Raises
    ------
    BadTemplate : the template is not valid.
    RetainError : the template refuses the variables, or fails, or takes too much time or memory.
    """
    return _child.ask(template, variables)


class _Child:
    """The process: started when it is first needed, and again when it had to be stopped."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Leave the process to another one, after a fork: the two must not share its pipes."""
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def ask(self, template: str, variables: Mapping[str, Any] | None) -> str:
        try:
            request = json.dumps({"template": template, "variables": variables})
        except (TypeError, ValueError, RecursionError) as error:
            raise RetainError(f"the messages are not plain data: {_one_line(error)}") from None
        with self._lock:
            if self._process is None:
                self._start()
            answer = self._answer(request)
        if "text" not in answer:
            kind, what = _STAGES[answer["stage"]]
            raise kind(f"the model's chat template {what}: {_one_line(answer['error'])}")
        try:
            answer["text"].encode()
        except UnicodeEncodeError:
            raise RetainError("the conversation has characters that cannot be written as UTF-8") from None
        return answer["text"]

    def _start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _START, os.fspath(_PROGRAM), *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                encoding="utf-8",
            )
        except OSError as error:
            raise RetainError(f"Python cannot be started to render the chat template: {_one_line(error)}") from None
        assert process.stdout is not None
        ready = ""
        try:
            ready = process.stdout.readline()
        finally:
            if ready != "\n":  # Ctrl-C among the causes
                _end(process)
        if ready != "\n":
            raise RetainError("the program that renders chat templates does not start; install retain-local again")
        self._process = process

    def _answer(self, request: str) -> dict[str, str]:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        timer = threading.Timer(_SECONDS, process.kill)
        timer.daemon = True
        timer.start()
        line = ""
        try:
            process.stdin.write(request + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            pass  # it ended: why is told below
        finally:
            timer.cancel()
            # Ctrl-C among the causes: the next request gets a process that has no old answer to give
            if not line.endswith("\n"):
                status = self.stop()
        if line.endswith("\n"):
            return json.loads(line)
        raise RetainError(f"the model's chat template takes too much time or memory, so it was stopped{_why(status)}")

    def stop(self) -> int:
        """End the process; its exit status."""
        process, self._process = self._process, None
        return 0 if process is None else _end(process)


def _end(process: subprocess.Popen[str]) -> int:
    """End a process; its exit status."""
    assert process.stdin is not None and process.stdout is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        status = process.wait(timeout=0.2)
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    process.stdout.close()
    return status


def _why(status: int) -> str:
    """What ended the process, for a status that says more than that it was stopped."""
    if status >= 0 or -status in (signal.SIGTERM, getattr(signal, "SIGXCPU", 0), getattr(signal, "SIGKILL", 0)):
        return ""
    return f" ({signal.Signals(-status).name})"


def _one_line(error: object) -> str:
    text = safe_line(str(error))
    return text if len(text) <= 300 else f"{text[:300]}…"


_child = _Child()
atexit.register(_child.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_child.forget)
