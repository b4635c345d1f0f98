"""Templates that mean no good: one line each, in bounded time and memory, and the next one works."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from retain_local.errors import RetainError
from retain_local.prompts.renderer import BadTemplate, check_template, render_template

HELLO = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize(
    "template, message",
    [
        ("{{ 1 / 0 }}", "fails: ZeroDivisionError"),
        ("{{ 2.0 ** 10000 }}", "fails: OverflowError"),
        ("{{ messages[7].x.y }}", "fails: UndefinedError"),
        ("{{ 'x'.encode('no such code') }}", "fails: LookupError"),
        ("{{ 'x'.encode('utf-16').decode() }}", "fails: UnicodeDecodeError"),
        ("{{ '\\ud800' }}", "cannot be written as UTF-8"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails: RecursionError"),
        ("{% include 'x' %}", "fails: TypeError"),
        ("{{ range(10 ** 9) }}", "fails: OverflowError"),
        ("{{ raise_exception('no\\n\\x1b[31mway') }}", "refuses the conversation: no .\\[31mway"),
        ("{{ raise_exception('long' * 1000) }}", "refuses the conversation: longlong"),
    ],
)
def test_a_template_that_fails(template: str, message: str) -> None:
    check_template(template)
    with pytest.raises(RetainError, match=message) as caught:
        render_template(template, HELLO)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "template",
    [
        "{% if %}",
        "{{ 'x",
        "{{ {} | nope }}",
        "{% for %}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "[" * 10**5,
    ],
)
def test_a_template_that_is_not_valid(template: str) -> None:
    for use in (check_template, lambda text: render_template(text, HELLO)):
        with pytest.raises(BadTemplate, match="chat template is not valid: ") as caught:
            use(template)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10 ** 10 }}",
        "{{ '%1000000000d' % 1 }}",  # is computed while it is compiled
        "{{ 'a' | center(10 ** 10) }}",
        "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{{ 'a' * 10 ** 8 }}",
    ],
)
def test_memory_is_bounded(template: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RetainError, match="more memory than a template may|too much time or memory"):
        render_template(template, HELLO)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
    assert render_template("{{ messages[0].content }}", HELLO) == "hello"


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
        "{{ (10 ** (10 ** 8)) % 7 }}",  # one operation, which nothing inside Python could interrupt
    ],
)
def test_time_is_bounded(template: str) -> None:
    with pytest.raises(RetainError, match="takes too much time or memory, so it was stopped"):
        render_template(template, HELLO)
    assert render_template("{{ messages[0].content }}", HELLO) == "hello"


def test_what_transformers_gives_a_template() -> None:
    assert render_template("{{ tools is none }} {{ functions is none }}", HELLO) == "True True"
    assert render_template("{{ tools[0] }}", HELLO | {"tools": ["a"]}) == "a"
    # trims blocks, knows `break` and the tag for training, writes JSON as it is
    text = "{% for m in messages %}\n  {% if loop.index > 1 %}{% break %}{% endif %}\n{% generation %}{{ m | tojson }}{% endgeneration %}\n{% endfor %}"
    assert render_template(text, {"messages": ["<é>", "b"]}) == '"<é>"'


@pytest.mark.parametrize(
    "template", ["{% for t in tools %}{{ t }}{% endfor %}.", "{{ '' + functions }}.", "{{ datetime[:2] + tools }}"]
)
def test_a_template_that_cannot_do_without_tools(template: str) -> None:
    assert render_template(template, HELLO) in (".", "20")


def test_a_conversation_that_is_no_plain_data() -> None:
    with pytest.raises(RetainError, match="not plain data"):
        render_template("x", {"messages": [object()]})


def test_a_fork_has_a_process_of_its_own() -> None:
    assert render_template("a", HELLO) == "a"
    child = os.fork()
    if not child:
        os._exit(0 if render_template("b", HELLO) == "b" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert render_template("c", HELLO) == "c"


def test_nothing_is_left_behind_or_printed_at_exit() -> None:
    script = """
from retain_local.prompts import renderer
renderer.render_template("a", {"messages": []})
print(renderer._child._process.pid)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == ""
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)
