"""Speculative decoding gives the tokens of greedy decoding and leaves its cells, under every policy, also where a draft is
rejected right where an eviction is due."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_cpp.llama_speculative import LlamaDraftModel, LlamaPromptLookupDecoding

from conftest import TinyFiles
from retain_local.bindings import retain_h
from retain_local.errors import UsageError
from support.llamas import greedy, kept, load, prompt

# Without knorm: in the first layer all keys of one token have the same norm, so that rounding decides which of them stay,
# and tokens that are computed together round differently.
POLICIES = tuple(name for name in retain_h.policies() if name != "knorm")
N_WRITTEN = 90


class Guesses(LlamaDraftModel):
    """Drafts of any length whose tokens are right up to a place drawn at random, and wrong from there on."""

    def __init__(self) -> None:
        self.text: list[int] = []
        self.rng = np.random.default_rng(0)
        self.drafts: list[tuple[int, int, int]] = []  # tokens before a draft, its length, how many of it are right

    def __call__(self, input_ids: np.ndarray, /, **_: Any) -> np.ndarray:
        n = len(input_ids)
        draft = np.array(self.text[n : n + int(self.rng.integers(1, 48))], np.intc)
        n_right = int(self.rng.integers(0, len(draft) + 1))
        draft[n_right:] = (draft[n_right:] + 1) % 256 + 3
        self.drafts.append((n, len(draft), n_right))
        return draft


@pytest.fixture(scope="module")
def guesses() -> Guesses:
    return Guesses()


def open_pair(model: Path, gates: Path, policy: str, draft_model: LlamaDraftModel, **options: Any) -> tuple[Any, Any]:
    """A model that drafts, and one that does not."""
    options = {"budget": None if policy == "none" else 40, "sinks": 2, "n_ubatch": 16, **options}
    options |= {"policy": policy, "gates": gates if policy == "gate" else None}
    return load(model, draft_model=draft_model, **options), load(model, **options)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("buffer", [0, 5, 16, 40])
def test_the_tokens_and_the_cells_are_those_of_greedy_decoding(tiny: TinyFiles, policy: str, buffer: int) -> None:
    guesses = Guesses()
    drafted, plain = open_pair(tiny.model("llama"), tiny.gates("llama"), policy, guesses, buffer=buffer)
    for seed in range(3):
        tokens = prompt(plain, 50 + 7 * seed, seed)
        expected = greedy(plain, tokens, N_WRITTEN)
        guesses.text = tokens + expected
        n_before = drafted.retention.stats().evictions
        assert greedy(drafted, tokens, N_WRITTEN) == expected
        assert drafted.n_tokens == plain.n_tokens and kept(drafted) == kept(plain)
        if policy != "snapkv":  # its limit is where queries begin, of which drafts displace some
            assert drafted.retention._rollback_limit() == plain.retention._rollback_limit()
        if policy != "none":
            assert drafted.retention.stats().evictions - n_before >= N_WRITTEN // max(1, buffer) - 1
    if buffer > 1 and policy != "none":
        assert any(n_right < n for _, n, n_right in guesses.drafts), "some were rejected"
    drafted.close()
    plain.close()


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), buffer=st.integers(1, 40), n_ubatch=st.sampled_from([4, 16, 32]))
def test_drafts_of_any_length_around_evictions(tiny: TinyFiles, seed: int, buffer: int, n_ubatch: int) -> None:
    guesses = Guesses()
    guesses.rng = np.random.default_rng(seed)
    drafted, plain = open_pair(
        tiny.model("llama"), tiny.gates("llama"), "gate", guesses, buffer=buffer, n_ubatch=n_ubatch
    )
    tokens = prompt(plain, 30 + seed % 40, seed)
    expected = greedy(plain, tokens, 60)
    guesses.text = tokens + expected
    assert greedy(drafted, tokens, 60) == expected
    assert kept(drafted) == kept(plain)
    drafted.close()
    plain.close()


@pytest.mark.parametrize("policy", ["gate", "snapkv"])
def test_after_a_full_prefill(tiny: TinyFiles, policy: str) -> None:
    """A draft is no prompt, which evictions would wait for."""
    guesses = Guesses()
    drafted, plain = open_pair(tiny.model("llama"), tiny.gates("llama"), policy, guesses, buffer=12, prefill="full")
    tokens = prompt(plain, 120)
    expected = greedy(plain, tokens, N_WRITTEN)
    guesses.text = tokens + expected
    assert greedy(drafted, tokens, N_WRITTEN) == expected and kept(drafted) == kept(plain)
    drafted.close()
    plain.close()


def test_prompt_lookup(tiny: TinyFiles) -> None:
    """The bindings' own draft model, on a text that repeats; the model evaluates fewer batches than it writes tokens."""
    drafted, plain = open_pair(
        tiny.model("llama"), tiny.gates("llama"), "gate", LlamaPromptLookupDecoding(num_pred_tokens=6), buffer=24
    )
    tokens = prompt(plain, 30) * 3
    expected = greedy(plain, tokens, N_WRITTEN)
    n_evaluations = drafted._n_evaluations
    assert greedy(drafted, tokens, N_WRITTEN) == expected
    assert drafted._n_evaluations - n_evaluations <= N_WRITTEN + 4
    assert (
        drafted.create_completion(tokens, max_tokens=20, temperature=0.0)["choices"]
        == (plain.create_completion(tokens, max_tokens=20, temperature=0.0)["choices"])
    )
    drafted.close()
    plain.close()


def test_a_text_can_go_on_after_a_draft_that_nobody_read(tiny: TinyFiles) -> None:
    """What was drafted beyond the last token that was taken is no part of the text, of a state, or of the next prompt."""
    guesses = Guesses()
    drafted, plain = open_pair(tiny.model("llama"), tiny.gates("llama"), "gate", guesses, buffer=24)
    tokens = prompt(plain, 60)
    guesses.text = tokens + greedy(plain, tokens, 40)
    for n in (3, 11, 17):
        assert greedy(drafted, tokens, n) == greedy(plain, tokens, n)
        assert drafted.n_tokens == plain.n_tokens == len(tokens) + n - 1
        drafted.load_state(drafted.save_state())
        follow_up = tokens + prompt(plain, 20, seed=n)[1:]
        assert greedy(drafted, follow_up, 20) == greedy(plain, follow_up, 20)
        assert kept(drafted) == kept(plain)
    drafted.close()
    plain.close()


def test_a_draft_model_comes_with_the_model(tiny: TinyFiles) -> None:
    llm = load(tiny.model("llama"), budget=64)
    with pytest.raises(UsageError, match="given when the model is loaded"):
        llm.draft_model = LlamaPromptLookupDecoding()
    llm.draft_model = None
    llm.close()


@pytest.mark.parametrize("policy", ["window", "snapkv"])
def test_a_real_model(smollm2: Path, policy: str) -> None:
    """SmolLM2 copies from its prompt, so that drafts are taken, under a budget that evicts while it writes."""
    options = {"budget": 64, "buffer": 16, "n_ubatch": 16, "policy": policy, "type_k": "f16", "type_v": "f16"}
    text = "The garden had roses, tulips and lilies. Anna counted them: roses, tulips and lilies. " * 4
    drafted = load(smollm2, draft_model=LlamaPromptLookupDecoding(num_pred_tokens=8), **options)
    plain = load(smollm2, **options)
    tokens = plain.tokenize(text.encode())
    expected = greedy(plain, tokens, 60)
    n_before = drafted._n_evaluations
    assert greedy(drafted, tokens, 60) == expected
    assert drafted._n_evaluations - n_before < 50, "drafts were accepted"
    assert drafted.retention.stats().evictions >= 3
    drafted.close()
    plain.close()
