"""Stopping a prompt in its middle leaves a model that goes on as if nothing had been."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from conftest import TinyFiles
from support.llamas import greedy, kept, load, prompt


def small(tiny: TinyFiles, **options):
    return load(tiny.model("llama"), gates=tiny.gates("llama"), **{"budget": 48, "buffer": 16, **options})


@pytest.mark.parametrize("stop_at", [0, 64, 192])
def test_stopped_between_batches(tiny: TinyFiles, stop_at: int) -> None:
    llm, fresh = small(tiny), small(tiny)
    tokens = prompt(llm, 300)

    def stop(done: int, total: int) -> None:
        if done >= stop_at:
            raise KeyboardInterrupt

    llm.on_prompt = stop
    with pytest.raises(KeyboardInterrupt):
        greedy(llm, tokens, 1)
    llm.on_prompt = None
    assert greedy(llm, tokens, 10) == greedy(fresh, tokens, 10)
    assert kept(llm) == kept(fresh)


def test_cells_of_tokens_that_never_arrived_are_read_again(tiny: TinyFiles) -> None:
    # as when Ctrl-C falls between the evaluation and the bookkeeping after it
    llm, fresh = small(tiny), small(tiny)
    tokens = prompt(llm, 300)
    llm.eval(tokens[:256])
    llm.n_tokens = 128
    llm.eval(tokens[128:])
    fresh.eval(tokens)
    assert llm.n_tokens == 300
    assert kept(llm) == kept(fresh)


def test_ctrl_c_inside_an_evaluation(tiny: TinyFiles) -> None:
    llm, fresh = (small(tiny, n_ctx=4096, n_batch=4096, n_ubatch=4096, policy="none", budget=4096) for _ in range(2))
    tokens = prompt(llm, 4000)
    start = time.perf_counter()
    fresh.eval(tokens)
    whole = time.perf_counter() - start
    threading.Timer(whole / 4, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        llm.eval(tokens)
    assert time.perf_counter() - start < whole * 0.8
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert greedy(llm, tokens[:100], 5) == greedy(fresh, tokens[:100], 5)
