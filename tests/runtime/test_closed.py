"""A model that was closed: everything says so, and nothing crashes."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from llama_cpp.llama_tokenizer import LlamaTokenizer

from conftest import TinyFiles
from retain_local import Llama, RetainError
from support.llamas import load, prompt

USES: dict[str, Callable[[Llama], Any]] = {
    "tokenize": lambda llm: llm.tokenize(b"abc"),
    "detokenize": lambda llm: llm.detokenize([5]),
    "eval": lambda llm: llm.eval([5]),
    "eval of nothing": lambda llm: llm.eval([]),
    "sample": lambda llm: llm.sample(),
    "reset": lambda llm: llm.reset(),
    "generate": lambda llm: next(llm.generate([5, 6])),
    "read": lambda llm: llm.read([5, 6]),
    "cached_prefix": lambda llm: llm.cached_prefix([5, 6]),
    "call": lambda llm: llm("abc"),
    "create_completion": lambda llm: llm.create_completion("abc", max_tokens=1),
    "a stream": lambda llm: next(llm.create_completion("abc", max_tokens=1, stream=True)),
    "create_chat_completion": lambda llm: llm.create_chat_completion([{"role": "user", "content": "abc"}]),
    "embed": lambda llm: llm.embed("abc"),
    "create_embedding": lambda llm: llm.create_embedding("abc"),
    "save_state": lambda llm: llm.save_state(),
    "n_ctx": lambda llm: llm.n_ctx(),
    "n_vocab": lambda llm: llm.n_vocab(),
    "n_embd": lambda llm: llm.n_embd(),
    "token_eos": lambda llm: llm.token_eos(),
    "token_bos": lambda llm: llm.token_bos(),
    "token_nl": lambda llm: llm.token_nl(),
    "pooling_type": lambda llm: llm.pooling_type(),
    "is_end": lambda llm: llm.is_end(2),
    "tokenizer": lambda llm: llm.tokenizer().encode("abc"),
    "ctx": lambda llm: llm.ctx,
    "model": lambda llm: llm.model,
    "stats": lambda llm: llm.retention.stats(),
    "layers": lambda llm: llm.retention.layers,
    "positions": lambda llm: llm.retention.positions(0, 0),
    "log_beta": lambda llm: llm.retention.log_beta(0, 0),
    "has_gates": lambda llm: llm.retention.has_gates,
    "has_static_gates": lambda llm: llm.retention.has_static_gates,
    "budget": lambda llm: llm.retention.budget,
    "set_budget": lambda llm: llm.retention.set_budget(5),
    "policy": lambda llm: llm.retention.policy,
    "pin": lambda llm: llm.retention.pin(0, 5),
    "unpin": lambda llm: llm.retention.unpin(),
    "set_scorer": lambda llm: llm.retention.set_scorer(None),
}


@pytest.mark.parametrize("use", USES)
def test_every_use_says_that_the_model_is_closed(tiny: TinyFiles, use: str) -> None:
    llm = load(tiny.model("llama"), policy="window", budget=64)
    llm.eval(prompt(llm, 10))
    llm.close()
    with pytest.raises(RetainError, match="^the model is closed$"):
        USES[use](llm)


def test_what_was_taken_from_it_says_so_too(tiny: TinyFiles) -> None:
    llm = load(tiny.model("llama"), policy="window", budget=64)
    state, retention = llm.save_state(), llm.retention
    tokenizers = llm.tokenizer(), LlamaTokenizer(llm)
    stream, tokens = llm("abc", max_tokens=9, stream=True), llm.generate(prompt(llm, 5))
    next(tokens), next(stream)
    llm.close()
    for use in (
        lambda: llm.load_state(state),
        retention.stats,
        lambda: tokenizers[0].decode([5]),
        lambda: tokenizers[1].decode([5]),
        lambda: next(stream),
        lambda: next(tokens),
    ):
        with pytest.raises(RetainError, match="^the model is closed$"):
            use()


def test_it_can_be_closed_again_and_comes_back_from_a_pickle(tiny: TinyFiles) -> None:
    llm = load(tiny.model("llama"), policy="window", budget=64)
    llm.close()
    llm.close()
    again = pickle.loads(pickle.dumps(llm))
    assert again("abc", max_tokens=2)["usage"]["completion_tokens"] == 2


def test_a_model_of_the_vocabulary_alone(tiny: TinyFiles) -> None:
    llm = Llama(tiny.model("llama"), vocab_only=True)
    assert llm.tokenize(b"abc")
    llm.close()
    with pytest.raises(RetainError, match="^the model is closed$"):
        llm.tokenize(b"abc")


def test_a_model_that_was_never_made_leaves_in_silence() -> None:
    program = "from retain_local import Llama\ntry: Llama()\nexcept TypeError: pass"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_closing_waits_for_the_call_of_another_thread(tiny: TinyFiles) -> None:
    llm = load(tiny.model("llama"), policy="window", budget=64)
    begun, outcome = threading.Event(), []
    llm.on_prompt = lambda done, total: begun.set()

    def work() -> None:
        try:
            while True:
                llm("abc" * 40, max_tokens=20)
        except RetainError as error:
            outcome.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    llm.close()
    thread.join()
    assert outcome == ["the model is closed"]


def test_closing_stops_a_prompt_between_its_batches(tiny: TinyFiles) -> None:
    llm = load(tiny.model("llama"), policy="window", budget=64, n_batch=8, n_ubatch=8)
    closer = threading.Thread(target=llm.close)
    llm.on_prompt = lambda done, total: closer.start() if done == 8 else None
    with pytest.raises(RetainError, match="^the model is closed$"):
        while True:
            llm.eval(prompt(llm, 900))  # in the main thread, where Ctrl-C is listened for
            llm.reset()
            llm.on_prompt = None
    closer.join()
