"""Divergences of next-token distributions: against SciPy from saved logits, and 0 where nothing is evicted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import log_softmax as scipy_log_softmax

from conftest import TinyFiles
from retain_local.bindings import retain_h
from retain_local.divergence import distributions, lockstep
from retain_local.divergence.distributions import kl_divergence, log_softmax, row_blocks
from retain_local.divergence.lockstep import diverge
from retain_local.divergence.summary import summarize
from retain_local.errors import RetainError, UsageError
from retain_local.options.retention_options import RetentionOptions
from support.divergences import N_UBATCH, kl_of_logits, made_up, nll_of_logits, saved_logits
from support.llamas import load, prompt

N_TOKENS = 400
EXACT = 1e-9  # nats: what float32 logits leave of 0


@pytest.fixture(scope="module")
def llm(tiny: TinyFiles) -> Iterator[Any]:
    """A model with the smallest cache of its own."""
    llm = load(tiny.model("llama"), policy="none", budget=1, sinks=0, gates=None, n_ubatch=N_UBATCH, n_batch=N_UBATCH)
    yield llm
    llm.close()


@pytest.fixture(scope="module")
def tokens(llm: Any) -> list[int]:
    return prompt(llm, N_TOKENS)


def options(tiny: TinyFiles, budget: int, **more: Any) -> RetentionOptions:
    """Options as resolved, with gates under the policy that has a use for them."""
    policy = more.setdefault("policy", "gate")
    gates = tiny.gates("llama") if policy == "gate" else None
    return RetentionOptions(**{"budget": budget, "buffer": 16, "gates": gates, **more})


def test_it_agrees_with_scipy_on_saved_logits(tiny: TinyFiles, llm: Any, tokens: list[int]) -> None:
    arms = [
        options(tiny, 100),
        options(tiny, 40, scope="head"),
        options(tiny, 40, policy="window", sinks=2, recent=10),
        options(tiny, 60, policy="random", scope="layer", policy_seed=3),
        options(tiny, 60, policy="knorm", scope="head"),
        options(tiny, 60, policy="keydiff"),
        options(tiny, 60, policy="snapkv", scope="layer"),
    ]
    full = saved_logits(tiny.model("llama"), tokens, policy="none", gates=None)
    for arm, found in zip(arms, diverge(llm, tokens, arms)):
        other = saved_logits(tiny.model("llama"), tokens, **vars(arm))
        np.testing.assert_allclose(found.kl, kl_of_logits(full, other), rtol=1e-6, atol=EXACT)
        np.testing.assert_allclose(found.full.nll, nll_of_logits(full, tokens), rtol=1e-9)
        np.testing.assert_allclose(found.cache.nll, nll_of_logits(other, tokens), rtol=1e-9)
        np.testing.assert_array_equal(found.full.top, full.argmax(axis=1))
        np.testing.assert_array_equal(found.cache.top, other.argmax(axis=1))
        assert found.kl[found.n_whole :].mean() > 0.01, "the arm should differ, or this shows nothing"


@pytest.mark.parametrize("policy", retain_h.policies())
@pytest.mark.parametrize("scope", ["global", "layer", "head"])
def test_a_budget_that_covers_the_text_costs_nothing(
    tiny: TinyFiles, llm: Any, tokens: list[int], policy: str, scope: str
) -> None:
    (found,) = diverge(llm, tokens, [options(tiny, N_TOKENS, policy=policy, scope=scope)])
    assert found.kl.max() < EXACT and not found.evicts
    np.testing.assert_allclose(found.cache.nll, found.full.nll, atol=1e-6)
    assert found.agrees.all() and found.cache.bytes_peak == found.full.bytes_peak


@pytest.mark.parametrize("type_kv", ["f16", "q8_0"])
def test_cell_types_do_not_matter_when_nothing_is_evicted(tiny: TinyFiles, tokens: list[int], type_kv: str) -> None:
    llm = load(
        tiny.model("llama"), policy="none", budget=1, sinks=0, gates=None, n_ubatch=N_UBATCH, n_batch=N_UBATCH,
        type_k=type_kv, type_v=type_kv,
    )  # fmt: skip
    (found,) = diverge(llm, tokens, [options(tiny, N_TOKENS)])
    assert found.kl.max() < EXACT
    llm.close()


# Chunks of 32, a buffer of 16, room for 32 over the budget: with 40 an eviction runs after the second chunk; with 50 none
# runs there, and the third would not fit.
@pytest.mark.parametrize("budget, n_whole", [(40, 64), (50, 64), (31, 32), (48, 64), (64, 96), (200, 224), (350, 352)])
def test_evictions_are_noticed_when_they_matter(
    tiny: TinyFiles, llm: Any, tokens: list[int], budget: int, n_whole: int
) -> None:
    (found,) = diverge(llm, tokens, [options(tiny, budget, policy="window")])
    assert found.n_whole == n_whole and found.evicts
    assert found.kl[:n_whole].max() < EXACT < found.kl[n_whole : n_whole + N_UBATCH].max()


def test_an_eviction_after_the_last_token_changes_nothing(tiny: TinyFiles, llm: Any, tokens: list[int]) -> None:
    (found,) = diverge(llm, tokens, [options(tiny, N_TOKENS - 1 - 16, policy="window")])
    assert not found.evicts and found.kl.max() < EXACT


def test_peaks_are_those_of_the_caches(tiny: TinyFiles, llm: Any, tokens: list[int]) -> None:
    found = diverge(llm, tokens, [options(tiny, 40), options(tiny, 100)])
    cell = 3 * 2 * (2 * 32 * 4)  # layers, KV heads, K and V rows in f32
    assert {one.full.bytes_peak for one in found} == {(N_TOKENS - 1) * cell}
    for one, budget in zip(found, (40, 100)):
        assert one.cache.budget == budget
        assert budget * cell < one.cache.bytes_peak <= (budget + N_UBATCH) * cell


def test_blocks_change_nothing(tiny: TinyFiles, llm: Any, tokens: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = diverge(llm, tokens, [options(tiny, 40)])
    monkeypatch.setattr(distributions, "BLOCK_LOGITS", 5 * llm.n_vocab())
    (blocks,) = diverge(llm, tokens, [options(tiny, 40)])
    np.testing.assert_array_equal(whole.kl, blocks.kl)
    np.testing.assert_array_equal(whole.cache.top, blocks.cache.top)


@pytest.mark.parametrize("first", [1, 32, 50, 349])  # chunks have 32 tokens
def test_what_is_only_read_changes_nothing_behind_it(tiny: TinyFiles, llm: Any, tokens: list[int], first: int) -> None:
    (whole,) = diverge(llm, tokens, [options(tiny, 40, policy="snapkv")])
    (part,) = diverge(llm, tokens, [options(tiny, 40, policy="snapkv")], first=first)
    assert np.isnan(part.kl[:first]).all() and (part.cache.top[:first] == -1).all()
    np.testing.assert_allclose(part.kl[first:], whole.kl[first:], rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(part.cache.top[first:], whole.cache.top[first:])
    assert part.n_whole == whole.n_whole


@given(n_rows=st.integers(0, 300), n_vocab=st.integers(1, 3 * distributions.BLOCK_LOGITS))
def test_blocks_cover_all_rows_and_stay_small(n_rows: int, n_vocab: int) -> None:
    blocks = list(row_blocks(n_rows, n_vocab))
    assert [row for block in blocks for row in range(n_rows)[block]] == list(range(n_rows))
    for block in blocks:
        n = block.stop - block.start
        assert n == 1 or n * n_vocab <= distributions.BLOCK_LOGITS


def test_progress_counts_the_tokens_of_all_caches(tiny: TinyFiles, llm: Any, tokens: list[int]) -> None:
    seen: list[tuple[int, int]] = []
    diverge(llm, tokens[:101], [options(tiny, 40), options(tiny, 50)], lambda *args: seen.append(args))
    counts = [done for done, _ in seen]
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == 300
    assert {total for _, total in seen} == {300}


def test_what_is_refused(tiny: TinyFiles, llm: Any, tokens: list[int]) -> None:
    with pytest.raises(UsageError, match="two tokens at least"):
        diverge(llm, tokens[:1], [options(tiny, 40)])
    with pytest.raises(UsageError, match="nothing is evicted"):
        diverge(llm, tokens, [options(tiny, 40, prefill="full")])
    with pytest.raises(RetainError, match="qwen3"):
        diverge(llm, tokens, [RetentionOptions(40, 128, gates=tiny.gates("qwen3"), policy="gate")])


def test_caches_are_freed_whatever_happens(
    tiny: TinyFiles, llm: Any, tokens: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = []

    class Watched(lockstep.TextCache):
        def __exit__(self, *why: object) -> None:
            super().__exit__(*why)
            left.append(self)

    monkeypatch.setattr(lockstep, "TextCache", Watched)

    def stop(done: int, total: int) -> None:
        if done > 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        diverge(llm, tokens, [options(tiny, 40)], stop)
    assert len(left) == 2


LOGITS = hnp.arrays(np.float32, (3, 7), elements=st.floats(-1e4, 1e4, width=32))


@given(first=LOGITS, second=LOGITS)
def test_kl_is_stable(first: np.ndarray, second: np.ndarray) -> None:
    log_p, log_q = log_softmax(first), log_softmax(second)
    np.testing.assert_allclose(log_p, scipy_log_softmax(first.astype(float), axis=1), atol=1e-9, rtol=1e-12)
    kl = kl_divergence(log_p, log_q)
    expected = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    np.testing.assert_allclose(kl, expected, atol=1e-9, rtol=1e-9)
    assert (kl >= 0).all() and (kl_divergence(log_p, log_p) == 0).all()


def test_a_token_that_cannot_come_costs_nothing() -> None:
    never = np.array([[1, -np.inf, 2]], np.float32)
    assert kl_divergence(log_softmax(never), log_softmax(never)) == 0
    other = np.array([[1, 5, 2]], np.float32)
    assert 0 < kl_divergence(log_softmax(never), log_softmax(other))[0] < math.inf
    assert kl_divergence(log_softmax(other), log_softmax(never))[0] == math.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers(bad: float) -> None:
    with pytest.raises(RetainError, match="not numbers"):
        log_softmax(np.array([[1, bad, 2]], np.float32))


def test_a_summary_leaves_out_what_was_predicted_from_the_whole_text() -> None:
    found = summarize([made_up([9, 9, 0, 1, 2, 3], n_whole=2, disagree=1, nll_more=0.1)])
    assert found.n == 4 and found.kl_mean == 1.5 and found.kl_max == 3
    assert found.kl_95 == pytest.approx(np.percentile([0, 1, 2, 3], 95))
    assert found.kl_99 == pytest.approx(np.percentile([0, 1, 2, 3], 99))
    assert found.agreement == 0.75
    assert found.perplexity_full == pytest.approx(np.exp(np.linspace(0.5, 1.5, 6)[2:].mean()))
    assert found.perplexity_ratio == pytest.approx(np.exp(0.1))


def test_a_summary_of_several_texts_counts_every_token_alike() -> None:
    found = summarize([made_up([1.0] * 10, n_whole=9), made_up([4.0] * 3), made_up([0.0] * 50, n_whole=50)])
    assert found.n == 4 and found.kl_mean == pytest.approx(13 / 4)


def test_a_summary_without_evictions_is_over_everything() -> None:
    found = summarize([made_up([0.0] * 5, n_whole=5)])
    assert (found.n, found.kl_max, found.agreement) == (5, 0, 1)


@pytest.mark.parametrize("arch", ["qwen3", "phi3"])
def test_other_models(tiny: TinyFiles, arch: str, tmp_path: Path) -> None:
    llm = load(tiny.model(arch), policy="none", budget=1, sinks=0, gates=None, n_ubatch=N_UBATCH, n_batch=N_UBATCH)
    tokens = prompt(llm, 200)
    cover, small = diverge(
        llm, tokens, [RetentionOptions(n, 128, gates=tiny.gates(arch), policy="gate") for n in (200, 30)]
    )
    assert cover.kl.max() < EXACT < small.kl.max()
    llm.close()
