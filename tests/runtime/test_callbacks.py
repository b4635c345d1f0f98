"""Code of the caller's that native code calls: its errors come out, it may keep what it gets, it cannot do harm."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from llama_cpp import LogitsProcessorList, StoppingCriteriaList

from conftest import TinyFiles
from retain_local import RetainError, UsageError
from support.llamas import kept, load, prompt, text


class Mine(Exception):
    pass


def fail(*_):
    raise Mine


def small(tiny: TinyFiles, **options):
    return load(tiny.model("llama"), **({"policy": "window", "budget": 48, "buffer": 8} | options))


@pytest.mark.parametrize("error", [Mine, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("stream", [False, True])
def test_what_a_logits_processor_raises_comes_out(tiny: TinyFiles, error: type[BaseException], stream: bool) -> None:
    llm = small(tiny)
    calls = []

    def processor(tokens, logits):
        calls.append(len(tokens))
        if len(calls) == 3:
            raise error
        return logits

    with pytest.raises(error):
        list(llm(text(20), max_tokens=9, stream=stream, logits_processor=LogitsProcessorList([processor])))
    assert len(calls) == 3
    assert llm(text(20), max_tokens=2)["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    "processor, reason",
    [
        (lambda tokens, logits: logits[:5], r"must return \d+ logits; it returned shape \[5\]"),
        (lambda tokens, logits: None, "must return"),
        (lambda tokens, logits: 0.0, "must return"),
    ],
)
def test_a_logits_processor_returns_all_logits(tiny: TinyFiles, processor, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        small(tiny)(text(20), max_tokens=2, logits_processor=LogitsProcessorList([processor]))


def test_a_logits_processor_that_is_no_list_is_refused(tiny: TinyFiles) -> None:
    with pytest.raises(UsageError, match="must be a list of functions"):
        small(tiny)(text(20), max_tokens=2, logits_processor=lambda tokens, logits: logits)


def test_processors_and_a_bias_both_work(tiny: TinyFiles) -> None:
    llm = small(tiny)
    tokens = prompt(llm, 20)
    wanted, other = llm.tokenize(b"q", add_bos=False)[-1], llm.tokenize(b"z", add_bos=False)[-1]

    def processor(_tokens, logits):
        logits[other] += 1000
        return logits

    processors = LogitsProcessorList([processor])
    for bias, token in (({wanted: 2000.0}, wanted), ({wanted: 500.0}, other), ({str(wanted): 2000.0}, wanted)):
        reply = llm(tokens, max_tokens=3, logits_processor=processors, logit_bias=bias)["choices"][0]["text"]
        assert reply.encode() == llm.detokenize([token] * 3)
    assert len(processors) == 1  # the caller's own list is as it was
    for token in (-1, llm.n_vocab()):
        with pytest.raises(UsageError, match=f"logit_bias names the token {token}"):
            llm(tokens, max_tokens=1, logit_bias={token: 1.0})


def test_what_a_stopping_criterion_and_progress_raise_comes_out(tiny: TinyFiles) -> None:
    llm = small(tiny)
    with pytest.raises(Mine):
        llm(text(20), max_tokens=3, stopping_criteria=StoppingCriteriaList([fail]))
    llm.on_prompt = fail
    with pytest.raises(Mine):
        llm(text(30), max_tokens=3)
    llm.on_prompt = None
    assert llm(text(20), max_tokens=2)["usage"]["completion_tokens"] == 2


def test_what_progress_of_loading_raises_comes_out(tiny: TinyFiles) -> None:
    with pytest.raises(Mine):
        small(tiny, on_load=fail)


def test_what_a_hook_raises_comes_out_of_what_made_it_run(tiny: TinyFiles) -> None:
    llm = small(tiny)
    llm.eval(prompt(llm, 40))
    llm.retention.set_scorer(fail)
    with pytest.raises(Mine):
        llm.retention.set_budget(20)
    llm.eval([5])  # not a second time


def test_what_a_hook_raises_comes_out_of_the_call_that_brings_the_next_token(tiny: TinyFiles) -> None:
    """The tokens that make an eviction due are in, and can be cut back; it runs, and its hook, when a token follows."""
    llm = small(tiny)
    llm.retention.set_scorer(fail)
    llm.eval(prompt(llm, 56))
    assert llm.retention.stats().evictions == 0
    with pytest.raises(Mine):
        llm.eval([5])
    assert llm.retention.stats().evictions == 1 and llm.n_tokens == 57
    llm.eval([5])  # not a second time


def test_a_hook_may_keep_and_change_its_arrays(tiny: TinyFiles) -> None:
    llm, plain = small(tiny), small(tiny)
    given = []

    def hook(*arrays):
        given.append((arrays, [array.copy() for array in arrays]))
        for array in arrays[:2]:
            array[:] = -7
        given[-1][1][:2] = [array.copy() for array in arrays[:2]]

    llm.retention.set_scorer(hook)
    for each in (llm, plain):
        each.eval(prompt(each, 300))
    assert kept(llm) == kept(plain) and len(given) > 3
    llm.close()
    del llm
    gc.collect()
    assert all((a == b).all() for arrays, copies in given for a, b in zip(arrays, copies, strict=True))


def test_a_logits_processor_may_keep_its_arrays(tiny: TinyFiles) -> None:
    llm, given = small(tiny), []

    def processor(tokens, logits):
        given.append((tokens, tokens.copy(), logits, logits.copy()))
        return logits

    llm(text(20), max_tokens=5, logits_processor=LogitsProcessorList([processor]))
    llm.close()
    assert [len(tokens) for tokens, *_ in given] == list(range(len(given[0][0]), len(given[0][0]) + 5))
    assert all((a == b).all() and (c == d).all() for a, b, c, d in given)


TEXTS = {
    "close": lambda llm: llm.close(),
    "eval": lambda llm: llm.eval([5]),
    "reset": lambda llm: llm.reset(),
    "sample": lambda llm: llm.sample(),
    "another completion": lambda llm: llm("abc", max_tokens=1),
    "load_state": lambda llm: llm.load_state(llm.save_state()),
}
LOOKS = {
    "stats": lambda llm: llm.retention.stats(),
    "set_budget": lambda llm: llm.retention.set_budget(10),
    "save_state": lambda llm: llm.save_state(),
}


@pytest.mark.parametrize("use", TEXTS | LOOKS)
def test_a_hook_cannot_use_its_own_cache(tiny: TinyFiles, use: str) -> None:
    llm, plain = small(tiny), small(tiny)
    llm.retention.set_scorer(lambda *cells: (TEXTS | LOOKS)[use](llm))
    with pytest.raises(UsageError, match="an eviction hook cannot use the cache that calls it"):
        llm.eval(prompt(llm, 200))
    llm.retention.set_scorer(None)
    plain.eval(prompt(plain, 200))
    assert kept(llm) == kept(plain) and llm.n_tokens == 200


@pytest.mark.parametrize("use", TEXTS)
@pytest.mark.parametrize("kind", ["processor", "criterion", "progress"])
def test_a_callback_cannot_start_another_text(tiny: TinyFiles, kind: str, use: str) -> None:
    llm = small(tiny)
    options = {
        "processor": lambda: {"logits_processor": LogitsProcessorList([lambda ids, logits: TEXTS[use](llm)])},
        "criterion": lambda: {"stopping_criteria": StoppingCriteriaList([lambda ids, logits: TEXTS[use](llm)])},
        "progress": dict,
    }[kind]()
    if kind == "progress":
        llm.on_prompt = lambda done, total: TEXTS[use](llm)
    with pytest.raises(UsageError, match="a callback cannot start another text"):
        llm(text(30), max_tokens=3, **options)


def test_a_callback_may_look(tiny: TinyFiles) -> None:
    llm, plain = small(tiny), small(tiny)
    seen = []

    def processor(tokens, logits):
        seen.append((llm.retention.stats().tokens_seen, llm.tokenize(b"abc"), llm.n_ctx(), llm.token_eos()))
        return logits

    options = {"max_tokens": 4, "temperature": 0.0}
    mine = llm(text(90), logits_processor=LogitsProcessorList([processor]), **options)
    assert mine["choices"] == plain(text(90), **options)["choices"] and len(seen) == 4


def test_a_hook_may_use_another_model(tiny: TinyFiles) -> None:
    llm, other = small(tiny), small(tiny)
    llm.retention.set_scorer(lambda layer, *rest: other("abc", max_tokens=1) and None)
    llm.eval(prompt(llm, 200))
    assert other.n_tokens > 0


def test_a_scorer_of_a_closed_model_is_never_called_again(tiny: TinyFiles) -> None:
    llm = small(tiny)
    llm.retention.set_scorer(lambda *cells: np.zeros(1))
    with pytest.raises(UsageError, match="finite scores"):
        llm.eval(prompt(llm, 200))
    llm.close()
    with pytest.raises(RetainError, match="closed"):
        llm.eval([5])
