"""A process that was forked lacks the threads that a model ran in; it is told so, and does not wait for them."""

from __future__ import annotations

import sys

import pytest

from conftest import TinyFiles
from support.child import run_program

PROGRAM = """
import multiprocessing

def use(llm, answers):
    try:
        answers.put(llm("hello", max_tokens=2)["usage"]["completion_tokens"])
    except RetainError as error:
        answers.put(f"RetainError: {error}")

llm = load(n_threads=N, n_threads_batch=N)
llm("hello", max_tokens=2)
context = multiprocessing.get_context("fork")
answers = context.Queue()
process = context.Process(target=use, args=(llm, answers))
process.start()
print(answers.get(timeout=60))
process.join()
print(llm("hello", max_tokens=2)["usage"]["completion_tokens"])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.parametrize("n_threads, answer", [(1, "2"), (2, "RetainError: this process was forked after a model ran")])
def test_a_forked_process(tiny: TinyFiles, n_threads: int, answer: str) -> None:
    done = run_program(tiny.model("llama"), f"N = {n_threads}\n{PROGRAM}")
    first, *_, last = done.stdout.splitlines()
    assert first.startswith(answer) and last == "2", done.stderr
