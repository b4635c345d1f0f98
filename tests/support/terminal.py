"""Running the command line at a terminal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pexpect

from .command_line import COMMAND, TIMEOUT_S, environment

PROMPT = r">\x08\x1b\[2C|> "  # what prompt_toolkit draws for "> "


def spawn(home: Path, *arguments: Any, columns: int = 140, **more: str) -> pexpect.spawn:
    """retain-local at a terminal, in the folder `home`, which also takes its data; `more` is environment."""
    return pexpect.spawn(COMMAND[0], [*COMMAND[1:], *map(str, arguments)], **_terminal(home, columns, more))


def spawn_shell(home: Path, columns: int = 140, **more: str) -> pexpect.spawn:
    """A shell with job control, in which `retain` is the command."""
    quoted = " ".join(f"'{word}'" for word in COMMAND)
    child = pexpect.spawn("bash", ["--norc", "-i"], **_terminal(home, columns, more | {"PS1": "shell$ "}))
    child.sendline(f'retain() {{ {quoted} "$@"; }}')
    return child


def _terminal(home: Path, columns: int, more: dict[str, str]) -> dict[str, Any]:
    variables = environment(home, TERM="xterm", PROMPT_TOOLKIT_NO_CPR="1", **more)
    del variables["COLUMNS"]  # the terminal has a width of its own
    return {
        "env": variables,
        "cwd": str(home),
        "dimensions": (40, columns),
        "timeout": TIMEOUT_S,
        "encoding": "utf-8",
        "codec_errors": "replace",
    }


def plain(written: str) -> str:
    """What was written to a terminal without its escape sequences and carriage returns."""
    return re.sub(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[@-Z\\-_=>])|\r", "", written)
