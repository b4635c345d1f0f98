"""Generating with a budget: what is reused of the cache is what a fresh reading would have given."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from llama_cpp import LlamaGrammar

from conftest import TinyFiles
from retain_local.errors import RetainError
from support.llamas import greedy, kept, load, prompt, text


def small(tiny: TinyFiles, **options):
    return load(tiny.model("llama"), gates=tiny.gates("llama"), **{"budget": 48, "buffer": 16, **options})


def test_nothing_evicted_is_a_full_cache(tiny: TinyFiles) -> None:
    full, gated = small(tiny, policy="none", budget=1024), small(tiny, budget=1024)
    tokens = prompt(full, 300)
    assert greedy(full, tokens, 40) == greedy(gated, tokens, 40)
    assert gated.retention.stats().evictions == 0


def test_eviction_keeps_the_budget(tiny: TinyFiles) -> None:
    llm = small(tiny)
    greedy(llm, prompt(llm, 300), 100)
    stats = llm.retention.stats()
    assert stats.tokens_seen == 399 and stats.evictions > 3
    assert stats.cells_kept + stats.cells_evicted == stats.cells_seen
    assert stats.cells_peak <= stats.cells_limit == stats.cell_lists * (48 + 32)


def test_a_longer_prompt_goes_on_where_the_cache_is(tiny: TinyFiles) -> None:
    """From the last place where a prompt is cut: evictions fall after 48 + k · 32 tokens, and ubatches begin there."""
    llm = small(tiny, buffer=32)
    tokens = prompt(llm, 200)
    greedy(llm, tokens[:150], 1)
    assert llm.cached_prefix(tokens) == 144
    seen: list[tuple[int, int]] = []
    llm.on_prompt = lambda done, total: seen.append((done, total))
    greedy(llm, tokens, 1)
    assert seen[-1] == (55, 55)  # and the last one for its logits


def test_what_the_model_wrote_is_not_read_again(tiny: TinyFiles) -> None:
    llm, fresh = small(tiny, buffer=32), small(tiny, buffer=32)
    tokens = prompt(llm, 150)
    said = tokens + greedy(llm, tokens, 100)
    asked = said + prompt(llm, 40, seed=1)[1:]
    assert llm.retention.stats().evictions > 4 and llm.cached_prefix(asked) == len(said) - 1
    assert greedy(llm, asked, 30) == greedy(fresh, asked, 30)
    assert kept(llm) == kept(fresh)


def test_a_small_buffer_reads_again_what_it_would_keep_otherwise(tiny: TinyFiles) -> None:
    """With less than a ubatch evictions fall elsewhere in a prompt than in a text that is written."""
    llm, fresh = small(tiny, buffer=5), small(tiny, buffer=5)
    tokens = prompt(llm, 150)
    said = tokens + greedy(llm, tokens, 50)
    assert llm.cached_prefix(said) == 0 and llm.cached_prefix(said, continues=True) == len(said) - 1
    assert greedy(llm, said, 30) == greedy(fresh, said, 30)
    assert kept(llm) == kept(fresh)


@pytest.mark.parametrize("steer", ["budget", "policy", "pins", "scorer"])
def test_cells_that_were_kept_for_other_reasons_are_not_used(tiny: TinyFiles, steer: str) -> None:
    llm, fresh = small(tiny, buffer=32), small(tiny, buffer=32)
    tokens = prompt(llm, 200)
    greedy(llm, tokens[:150], 1)
    for each in (llm, fresh):
        if steer == "budget":
            each.retention.set_budget(40)
        elif steer == "policy":
            each.retention.policy = "window"
        elif steer == "pins":
            each.retention.pin(30, 40)
        else:
            each.retention.set_scorer(lambda layer, head, pos, log_beta, age: pos % 7)
    assert llm.cached_prefix(tokens) == 0
    assert greedy(llm, tokens, 20) == greedy(fresh, tokens, 20)
    assert kept(llm) == kept(fresh)


def test_an_eviction_without_its_scorer_is_not_used(tiny: TinyFiles) -> None:
    llm, fresh = small(tiny, buffer=32), small(tiny, buffer=32)
    tokens, fails = prompt(llm, 200), [True]

    def scorer(layer, head, pos, log_beta, age):
        if fails.pop() if fails else False:
            raise ZeroDivisionError
        return pos % 7

    for each in (llm, fresh):
        each.retention.set_scorer(scorer)
    with pytest.raises(ZeroDivisionError):
        greedy(llm, tokens, 1)
    assert not fails and greedy(llm, tokens, 20) == greedy(fresh, tokens, 20)
    assert kept(llm) == kept(fresh)


@pytest.mark.parametrize("budget", [8, 48, 1024])
def test_full_prefill_depends_on_the_prompt_alone(tiny: TinyFiles, budget: int) -> None:
    llm, fresh = (small(tiny, budget=budget, buffer=32, prefill="full") for _ in range(2))
    tokens = prompt(llm, 200)
    said = tokens[:150] + greedy(llm, tokens[:150], 60)
    for asked in (tokens, said, tokens[:40], said[:170] + tokens[:20], said):
        fresh.reset()
        assert greedy(llm, asked, 20) == greedy(fresh, asked, 20)
        assert kept(llm) == kept(fresh)


def test_a_saved_state_says_how_its_cells_came_there(tiny: TinyFiles) -> None:
    llm, other = small(tiny, buffer=32), small(tiny, buffer=32)
    tokens = prompt(llm, 200)
    greedy(llm, tokens[:150], 5)
    other.load_state(pickle.loads(pickle.dumps(llm.save_state())))
    assert other.cached_prefix(tokens) == 144
    assert greedy(other, tokens, 20) == greedy(llm, tokens, 20)


def test_another_prompt_is_read_from_its_start(tiny: TinyFiles) -> None:
    llm, fresh = small(tiny), small(tiny)
    first, second = prompt(llm, 200), prompt(llm, 200)[:100] + prompt(llm, 100, seed=1)
    greedy(llm, first, 10)
    assert llm.cached_prefix(second) == 0
    assert greedy(llm, second, 20) == greedy(fresh, second, 20)
    assert kept(llm) == kept(fresh)


def test_a_prefix_is_reused_while_nothing_was_evicted(tiny: TinyFiles) -> None:
    llm = small(tiny, budget=512)
    first, second = prompt(llm, 200), prompt(llm, 200)[:100] + prompt(llm, 100, seed=1)
    greedy(llm, first, 10)
    assert llm.cached_prefix(second) == 96  # three ubatches
    fresh = small(tiny, budget=512)
    assert greedy(llm, second, 20) == greedy(fresh, second, 20)


def test_the_last_tokens_are_taken_back_exactly(tiny: TinyFiles) -> None:
    llm = small(tiny, buffer=64)
    tokens = prompt(llm, 200)
    first = greedy(llm, tokens, 10)
    assert llm.retention.stats().evictions and llm.cached_prefix(tokens) == 199
    before = kept(llm)
    assert greedy(llm, tokens, 10) == first
    assert kept(llm) == before


@pytest.mark.parametrize("options", [{"buffer": 32}, {"buffer": 5}, {"buffer": 0}, {"buffer": 32, "prefill": "full"}])
def test_an_eviction_that_is_due_waits_for_the_next_token(tiny: TinyFiles, options: dict) -> None:
    """A prompt that ends where an eviction is due is cut back for another ending, and read again, as if it were new."""
    llm, fresh, restored = (small(tiny, **options) for _ in range(3))
    for n in (79, 80, 81, 112, 113):
        tokens = prompt(llm, n)
        n_cached = (n - 1) // 32 * 32 if "prefill" in options else n - 1  # a prompt that is held is one reading
        first = greedy(llm, tokens, 1)
        before, n_evictions = kept(llm), llm.retention.stats().evictions
        for _ in range(2):  # regenerated, and edited at the end
            assert llm.cached_prefix(tokens) == n_cached and greedy(llm, tokens, 1) == first
            assert kept(llm) == before and llm.retention.stats().evictions == n_evictions
        restored.load_state(llm.save_state())
        assert kept(restored) == before and restored.cached_prefix(tokens) == n_cached
        assert greedy(restored, tokens, 20) == greedy(llm, tokens, 20) and kept(restored) == kept(llm)
        greedy(llm, tokens, 1)
        edited = tokens[:-1] + prompt(llm, 2, seed=n)[1:]
        fresh.reset()
        assert llm.cached_prefix(edited) == n_cached
        assert greedy(llm, edited, 40) == greedy(fresh, edited, 40) and kept(llm) == kept(fresh)


def test_reset_forgets_the_text(tiny: TinyFiles) -> None:
    llm, fresh = small(tiny), small(tiny)
    tokens = prompt(llm, 200)
    greedy(llm, tokens, 5)
    llm.reset()
    assert llm.retention.stats().cells_kept == 0
    llm.eval(tokens)
    fresh.eval(tokens)
    assert kept(llm) == kept(fresh)


def test_full_prefill_evicts_once(tiny: TinyFiles) -> None:
    llm = small(tiny, prefill="full")
    llm.eval(prompt(llm, 500))
    assert llm.retention.stats().evictions == 0, "the prompt can still be cut back"
    llm.eval(prompt(llm, 2)[1:])
    stats = llm.retention.stats()
    assert stats.evictions == 1
    assert stats.cells_peak == stats.cell_lists * 500 and stats.cells_kept == stats.cell_lists * 49


def test_policy_none_says_when_it_is_full(tiny: TinyFiles) -> None:
    llm = small(tiny, policy="none", budget=100)
    with pytest.raises(RetainError) as caught:
        greedy(llm, prompt(llm, 400), 1)
    assert "\n" not in str(caught.value) and "none" in str(caught.value)
    # and what fits still works
    assert len(greedy(llm, prompt(llm, 50), 5)) == 5


def test_the_end_of_the_context(tiny: TinyFiles) -> None:
    llm = small(tiny, n_ctx=256)
    with pytest.raises(RetainError, match="the context of 256 tokens is full"):
        llm.eval(prompt(llm, 257))


def test_completion_and_stream_agree(tiny: TinyFiles) -> None:
    llm = small(tiny)
    options = {"max_tokens": 30, "temperature": 0.0}
    whole = llm.create_completion(text(200), **options)["choices"][0]["text"]
    pieces = [chunk["choices"][0]["text"] for chunk in llm.create_completion(text(200), stream=True, **options)]
    assert whole and "".join(pieces) == whole


def test_seeds(tiny: TinyFiles) -> None:
    llm = small(tiny)
    first, second, other = (
        llm.create_completion(text(200), max_tokens=20, temperature=1.0, seed=seed)["choices"][0]["text"]
        for seed in (1, 1, 2)
    )
    assert first == second != other


def test_grammar(tiny: TinyFiles) -> None:
    llm = small(tiny)
    grammar = LlamaGrammar.from_string('root ::= "yes" | "no"', verbose=False)
    answer = llm.create_completion(text(200), grammar=grammar, max_tokens=5)["choices"][0]["text"]
    assert answer in ("yes", "no")


def test_logprobs(tiny: TinyFiles) -> None:
    llm = small(tiny, logits_all=True)
    choice = llm.create_completion(text(200), max_tokens=4, logprobs=3, temperature=0.0)["choices"][0]
    assert len(choice["logprobs"]["token_logprobs"]) == 4
    assert np.isfinite(choice["logprobs"]["token_logprobs"]).all()


def test_chat_and_its_stream_agree(tiny: TinyFiles) -> None:
    llm = small(tiny)
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": text(150)}]
    options = {"max_tokens": 12, "temperature": 0.0}
    whole = llm.create_chat_completion(messages, **options)["choices"][0]["message"]["content"]
    chunks = llm.create_chat_completion(messages, stream=True, **options)
    assert whole == "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


def test_the_parents_prompt_cache(tiny: TinyFiles) -> None:
    import llama_cpp

    llm, fresh = small(tiny), small(tiny)
    llm.set_cache(llama_cpp.LlamaRAMCache())
    options = {"max_tokens": 5, "temperature": 0.0}
    first = llm.create_completion(text(100), **options)
    llm.create_completion(text(100, seed=1), **options)
    again = llm.create_completion(text(100), **options)
    assert again["choices"] == first["choices"] == fresh.create_completion(text(100), **options)["choices"]
