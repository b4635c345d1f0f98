"""Around the commands: what an error, Ctrl-C or a closed pipe becomes."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import NoReturn

import typer
from rich.markup import escape

from ..errors import RetainError, UsageError
from ..terminal.safe_text import safe_line, safe_text
from ..terminal.stderr import stderr_console
from .streams import drop_output, flush_output, open_streams, reason

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def run_app(app: typer.Typer) -> NoReturn:
    """Run a command line and exit: an error is one line on stderr and a status, never a traceback."""
    _show_log()
    status = FAILED
    try:
        open_streams()
        status = app(prog_name="retain-local", standalone_mode=False) or 0
        flush_output()
    except typer.TyperException as error:
        status = _say(f"{error.format_message()} (--help tells more)", USAGE)
    except UsageError as error:
        status = _say(str(error), USAGE)
    except RetainError as error:
        status = _say(str(error), FAILED)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:
        drop_output()  # whoever read it has enough
        status = FAILED
    except OSError as error:
        drop_output()
        status = _say(reason(error), FAILED)
    except MemoryError:
        status = _say("there is not enough memory", FAILED)
    with suppress(OSError):
        flush_output()  # what an error left there; at exit it would be a traceback
    sys.exit(status)


def _say(message: str, status: int) -> int:
    line = f"retain-local: {safe_line(message)}"
    if sys.stderr.isatty():
        stderr_console().print(escape(line))  # broken between words
    else:
        print(line, file=sys.stderr)
    return status


class _Notes(logging.Handler):
    """Shows remarks of the library as dim lines on stderr, warnings as yellow ones."""

    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else "dim"
        stderr_console().print(f"[{style}]{escape(safe_text(record.getMessage()))}[/]")


def _show_log() -> None:
    logger = logging.getLogger("retain_local")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [_Notes()]
