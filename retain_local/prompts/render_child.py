"""Rendering chat templates: a program that `renderer` runs in a process of its own.

A template is code from a model file. Jinja's sandbox keeps it from reaching out; here it cannot take the machine's time
and memory either, since the operating system stops this process and no other.

Reads one JSON object a line from stdin, {"template": str, "variables": object or null}, and answers each with one,
{"text": str}, or {"error": str, "stage": "compile", "render" or "refuse"}: the template is not valid, fails, or says
itself that it does not take the conversation. With null for the variables a template is only compiled.
"""

from __future__ import annotations

import json
import math
import signal
import sys
from contextlib import suppress
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any, ClassVar

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_SECONDS = 3
MEMORY_BYTES = 1 << 30
MOST_CHARACTERS = 1 << 26

# what transformers hands to a template whether or not a chat has it
OPTIONAL = ("tools", "tool_choice", "functions", "function_call")


class GenerationBlock(Extension):
    """`{% generation %}` marks a reply for training; the text is what stands inside."""

    tags: ClassVar[set[str]] = {"generation"}  # type: ignore[misc]  # Jinja reads it from the class

    def parse(self, parser: jinja2.parser.Parser) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TemplateRefusal(Exception):
    """The template called `raise_exception`."""


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: Any) -> None:
    raise TemplateRefusal(str(message))


# As transformers sets it up, but not optimized: that would compute constants while a template is compiled.
_environment = ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    optimized=False,
    extensions=[GenerationBlock, "jinja2.ext.loopcontrols"],
)
_environment.filters["tojson"] = _to_json
_environment.globals["raise_exception"] = _refuse
_environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)


@lru_cache(maxsize=16)
def _compiled(template: str) -> jinja2.Template:
    return _environment.from_string(template)


def _rendered(template: jinja2.Template, variables: dict[str, Any]) -> str:
    """The text of a conversation. Some templates cannot do without tools or functions: those get empty ones."""
    given = {name: value for name, value in variables.items() if value is not None}
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S GMT")
    try:
        return template.render(dict.fromkeys(OPTIONAL) | given)
    except TemplateRefusal:
        raise
    except Exception as error:
        try:
            return template.render(dict.fromkeys(OPTIONAL, "") | {"datetime": now} | given)
        except TemplateRefusal:
            raise
        except Exception:
            raise error from None


def _answer(request: dict[str, Any]) -> dict[str, str]:
    stage = "compile"
    try:
        template = _compiled(request["template"])
        stage = "render"
        text = "" if request["variables"] is None else _rendered(template, request["variables"])
        if len(text) > MOST_CHARACTERS:
            raise MemoryError
        return {"text": text}
    except TemplateRefusal as error:
        return {"error": str(error), "stage": "refuse"}
    except MemoryError:
        return {"error": "it takes more memory than a template may", "stage": stage}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "stage": stage}


def _limit(name: str, soft: int) -> None:
    """Lower a limit of this process, where the system has it."""
    with suppress(ImportError, AttributeError, ValueError, OSError):
        import resource

        which = getattr(resource, name)
        hard = resource.getrlimit(which)[1]
        resource.setrlimit(which, (soft if hard < 0 else min(soft, hard), hard))


def _allow_more_time() -> None:
    with suppress(ImportError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit("RLIMIT_CPU", math.ceil(used.ru_utime + used.ru_stime) + CPU_SECONDS)


def main() -> None:
    """Answer until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    _limit("RLIMIT_AS", MEMORY_BYTES)
    _limit("RLIMIT_CORE", 0)
    sys.stdout.write("\n")  # ready
    sys.stdout.flush()
    for line in sys.stdin:
        _allow_more_time()
        sys.stdout.write(json.dumps(_answer(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
