"""Going on in a longer context, or with a larger budget, in the middle of a conversation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conftest import TinyFiles
from retain_local.chat.context_size import change_context, goes_beyond_training, longer_context
from retain_local.chat.generation import Sampling
from retain_local.chat.session import Session
from retain_local.errors import ContextFullError, RetainError, UsageError
from support.llamas import kept, load, text


def session(tiny: TinyFiles, n_ctx: int, max_tokens: int | None = 20, **options: Any) -> Session:
    retention = {"gates": tiny.gates("llama"), "budget": 64, "buffer": 16} | options
    return Session(load(tiny.model("llama"), n_ctx=n_ctx, **retention), "", Sampling(temp=0.0, max_tokens=max_tokens))


def reply(chat: Session, message: str) -> str:
    return "".join(chat.send(message))


def test_a_conversation_goes_on_as_in_a_context_that_was_longer_from_the_start(tiny: TinyFiles) -> None:
    long, grown = session(tiny, 1024), session(tiny, 256)
    first = text(150)
    assert reply(grown, first) == reply(long, first)
    change_context(grown.llm, n_ctx=1024)
    assert grown.llm.n_ctx() == 1024 and kept(grown.llm) == kept(long.llm)
    for message in (text(90, seed=1), text(400, seed=2)):
        assert reply(grown, message) == reply(long, message)
        assert kept(grown.llm) == kept(long.llm)
    assert grown.last.n_prompt == long.last.n_prompt  # nothing is read again


def test_a_message_that_does_not_fit_and_a_reply_that_is_cut(tiny: TinyFiles) -> None:
    chat = session(tiny, 256, max_tokens=None)
    with pytest.raises(ContextFullError) as refused:
        reply(chat, text(300))
    assert refused.value.n_tokens > 300 and not chat.messages
    begun = reply(chat, text(200))
    assert chat.is_cut()
    change_context(chat.llm, n_ctx=512)
    more = "".join(chat.go_on())
    assert chat.is_cut() and len(chat.tokens) == 512
    assert chat.messages[-1] == {"role": "assistant", "content": begun + more} and len(chat.messages) == 2
    uncut = session(tiny, 512, max_tokens=None)
    assert reply(uncut, text(200)) == begun + more


def test_beyond_the_trained_context(tiny: TinyFiles) -> None:
    chat = session(tiny, 4096)
    n_train = chat.llm.model_file.n_ctx_train
    assert n_train == 4096 and goes_beyond_training(chat.llm, 4097) and not goes_beyond_training(chat.llm, 4096)
    reply(chat, text(4000))
    change_context(chat.llm, n_ctx=100_000)
    assert not goes_beyond_training(chat.llm, 200_000)  # said once
    reply(chat, text(900, seed=1))
    assert chat.llm.n_tokens > n_train
    assert chat.llm.retention.stats().cells_kept <= 6 * (64 + 32)


@pytest.mark.parametrize(
    ("n_ctx", "n_tokens", "expected"), [(256, 100, 768), (1024, 1025, 2048), (2304, 2304, 4096), (4096, 4200, 8192)]
)
def test_how_long_to_make_it(tiny: TinyFiles, n_ctx: int, n_tokens: int, expected: int) -> None:
    assert longer_context(session(tiny, n_ctx).llm, n_tokens) == expected


def test_a_larger_budget(tiny: TinyFiles) -> None:
    chat = session(tiny, 1024)
    reply(chat, text(150))
    before = kept(chat.llm)
    change_context(chat.llm, budget=200)
    assert chat.llm.retention.budget == 200 and kept(chat.llm) == before
    reply(chat, text(400, seed=1))
    stats = chat.llm.retention.stats()
    assert 200 * 6 <= stats.cells_kept < (200 + 16) * 6


def test_a_lowered_budget_a_policy_and_pins_go_along(tiny: TinyFiles) -> None:
    chat = session(tiny, 256)
    chat.llm.retention.set_budget(32)
    chat.llm.retention.policy = "window"
    chat.llm.retention.pin(10, 20)
    reply(chat, text(100))
    change_context(chat.llm, n_ctx=1024)
    reply(chat, text(300, seed=1))
    retention = chat.llm.retention
    assert (retention.budget, retention.policy) == (32, "window")
    assert all(set(range(10, 20)) <= set(positions) for positions in kept(chat.llm))


def test_a_budget_that_covers_the_context_goes_on_covering_it(tiny: TinyFiles) -> None:
    chat = session(tiny, 256, budget=None)
    assert chat.llm.retention.budget == 256
    change_context(chat.llm, n_ctx=1024)
    assert chat.llm.retention.budget == 1024
    change_context(chat.llm, n_ctx=100_096)
    assert chat.llm.retention.budget == 2048
    full = session(tiny, 256, budget=None, policy="none", gates=None)
    change_context(full.llm, n_ctx=4096)
    assert full.llm.retention.budget == 4096


def test_what_cannot_be_made_leaves_the_old_context(tiny: TinyFiles) -> None:
    chat, same = session(tiny, 512), session(tiny, 512)
    assert reply(chat, text(150)) == reply(same, text(150))
    for n_ctx in (0, 100, chat.llm.n_tokens, 2**31):
        with pytest.raises(UsageError):
            change_context(chat.llm, n_ctx=n_ctx)
    with pytest.raises(RetainError, match="must be 1 to"):
        change_context(chat.llm, budget=2**30)
    assert chat.llm.n_ctx() == 512 and chat.llm.options.budget == 64
    assert np.array_equal(chat.llm.input_ids[: chat.llm.n_tokens], same.llm.input_ids[: same.llm.n_tokens])
    assert kept(chat.llm) == kept(same.llm)
    assert reply(chat, text(90, seed=1)) == reply(same, text(90, seed=1))
    chat.llm.close()


def test_a_context_that_is_made_before_anything_was_said(tiny: TinyFiles) -> None:
    chat, same = session(tiny, 256), session(tiny, 1024)
    reply(chat, text(200))  # evicts
    chat.restart("")
    change_context(chat.llm, n_ctx=1024)
    assert reply(chat, text(300, seed=1)) == reply(same, text(300, seed=1))
    assert kept(chat.llm) == kept(same.llm)
    prompt = chat.tokens[:150]
    assert chat.llm.cached_prefix(prompt) == same.llm.cached_prefix(prompt)


def test_what_a_prompt_can_reuse_goes_along(tiny: TinyFiles) -> None:
    chat, same = session(tiny, 512), session(tiny, 1024)
    for one in (chat, same):
        reply(one, text(200))
    change_context(chat.llm, n_ctx=1024)
    prompt = [*chat.tokens, *chat.llm.tokenize(text(30, seed=3).encode(), add_bos=False)]
    assert chat.llm.cached_prefix(prompt) == same.llm.cached_prefix(prompt)
    chat.llm.read(prompt)
    same.llm.read(prompt)
    assert kept(chat.llm) == kept(same.llm)


def test_a_context_shorter_than_the_budget(tiny: TinyFiles) -> None:
    chat = session(tiny, 1024, budget=900)
    said = reply(chat, text(150)), reply(chat, "and now")
    change_context(chat.llm, n_ctx=512)
    assert (chat.llm.n_ctx(), chat.llm.retention.budget) == (512, 512)
    other = session(tiny, 512, budget=512)
    assert (reply(other, text(150)), reply(other, "and now")) == said and reply(chat, "more") == reply(other, "more")
