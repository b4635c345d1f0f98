"""A prompt leaves the same cells and gives the same text, whatever the model read and wrote before."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import TinyFiles
from support.llamas import greedy, kept, load, prompt

N_WRITTEN = 24


@dataclass(frozen=True)
class Request:
    """A prompt that begins as a text does that all requests know, and how much is written after it."""

    n_shared: int
    n_own: int
    seed: int
    n_written: int

    def prompt(self, llm: Any) -> list[int]:
        own = prompt(llm, self.n_own + 1, seed=self.seed)[1:]  # without the token that begins a text
        return prompt(llm, 260)[: self.n_shared] + own


REQUESTS = st.builds(Request, st.integers(1, 260), st.integers(0, 60), st.integers(1, 3), st.integers(1, 70))
BUDGETS = st.sampled_from([8, 24, 40, 64, 100, 1024])
BUFFERS = st.sampled_from([0, 7, 16, 32, 48])
UBATCHES = st.sampled_from([1, 8, 16, 32])


class Models:
    """Each shape of a cache once, twice over: one is asked for other things first."""

    def __init__(self, model: Path, gates: Path) -> None:
        self.model, self.gates = model, gates
        self.pair = cache(lambda *options: tuple(self._load(dict(options)) for _ in range(2)))

    def _load(self, options: dict[str, Any]) -> Any:
        gates = self.gates if options["policy"] == "gate" else None
        return load(self.model, gates=gates, sinks=2, **options)

    def __call__(self, **options: Any) -> Any:
        used, fresh = self.pair(*sorted(options.items()))
        for llm in (used, fresh):
            llm.reset()
        return used, fresh


@pytest.fixture(scope="module")
def models(tiny: TinyFiles) -> Models:
    return Models(tiny.model("llama"), tiny.gates("llama"))


def logits(llm: Any) -> np.ndarray:
    return np.ctypeslib.as_array(llm._ctx.get_logits(), (llm.n_vocab(),)).copy()


@pytest.mark.parametrize("policy", ["gate", "window", "snapkv"])
@settings(max_examples=60)
@given(budget=BUDGETS, buffer=BUFFERS, n_ubatch=UBATCHES, earlier=st.lists(REQUESTS, max_size=3), last=REQUESTS)
def test_what_was_asked_before_changes_nothing(
    models: Models, policy: str, budget: int, buffer: int, n_ubatch: int, earlier: list[Request], last: Request
) -> None:
    used, fresh = models(policy=policy, budget=budget, buffer=buffer, n_ubatch=n_ubatch)
    for one in earlier:
        greedy(used, one.prompt(used), one.n_written)
    tokens = last.prompt(used)
    assert greedy(used, tokens, 1) == greedy(fresh, tokens, 1)
    assert np.array_equal(logits(used), logits(fresh)), "not equal to the bit"
    assert greedy(used, tokens, N_WRITTEN) == greedy(fresh, tokens, N_WRITTEN)
    assert kept(used) == kept(fresh)


TURNS = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 60)), min_size=1, max_size=5)


# the same examples every time: cells that were computed one by one differ in their last bits from those of a prompt, and
# some text has two scores that are as near
@pytest.mark.parametrize("policy", ["gate", "window", "snapkv"])
@settings(max_examples=40, derandomize=True)
@given(
    budget=BUDGETS, n_ubatch=UBATCHES, more_buffer=st.sampled_from([0, 1, 16]), turns=TURNS, n_back=st.integers(0, 60)
)
def test_a_conversation_is_what_reading_it_gives(
    models: Models, policy: str, budget: int, n_ubatch: int, more_buffer: int, turns: list[tuple[int, int]], n_back: int
) -> None:
    """With a buffer of a ubatch or more, text that the model wrote is used, and a branch from its middle is exact too."""
    used, fresh = models(policy=policy, budget=budget, buffer=n_ubatch + more_buffer, n_ubatch=n_ubatch)
    tokens = prompt(used, 60)
    for seed, (n_asked, n_written) in enumerate(turns):
        tokens = tokens + prompt(used, n_asked + 2, seed=seed)[1:]
        if seed:
            assert used.cached_prefix(tokens) == used.n_tokens, "nothing is read twice"
        tokens += greedy(used, tokens, n_written)
    branch = tokens[: max(1, len(tokens) - n_back)] + prompt(used, 20, seed=9)[1:]
    assert greedy(used, branch, N_WRITTEN) == greedy(fresh, branch, N_WRITTEN)
    assert kept(used) == kept(fresh)
