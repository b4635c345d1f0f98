"""The cache beside other features of the server: sleeping, draft models, several choices, checkpoints."""

from __future__ import annotations

import os
import random
import time

from retain_local.paths import BUNDLED_MODEL
from retain_local.server import Server
from support.servers import ask, complete

WORDS = "the of and to in is that it was for".split()


def words(n: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=n))


def test_sleeping_and_waking_keeps_the_options() -> None:
    more = ("--threads", "1", "--sleep-idle-seconds", "1")
    with Server(BUNDLED_MODEL, budget=48, parallel=1, policy="window", arguments=more) as server:
        before = complete(server, words(300, 1), key=None)["retention"]
        while not ask(server, "GET", "/props", key=None)[1]["is_sleeping"]:
            time.sleep(0.1)
        status, reply = ask(server, "GET", "/retention/cells", key=None)
        assert status == 503 and "sleeps" in reply["error"]["message"]
        after = complete(server, words(300, 1), key=None)["retention"]
        assert before == after and after["policy"] == "window" and after["budget"] == 48


def test_a_draft_model_has_a_stock_context_and_changes_nothing() -> None:
    more = ("--threads", "1")
    draft = (*more, "--model-draft", str(BUNDLED_MODEL), "--spec-type", "draft-simple", "--spec-draft-n-max", "4")
    text = words(400, 2)
    replies = []
    for budget, arguments in ((1024, more), (1024, draft), (64, more), (64, draft)):
        with Server(BUNDLED_MODEL, budget=budget, parallel=1, arguments=arguments) as server:
            replies.append(complete(server, text, 100, key=None, ignore_eos=True))
    plain, drafted, alone, evicted = replies
    assert drafted["timings"]["draft_n_accepted"] > 0
    assert drafted["content"] == plain["content"]
    # where evictions run, rejected tokens are taken back all the same, and drafts end where the next one is due
    assert evicted["timings"]["draft_n_accepted"] > 0
    assert evicted["retention"]["cells_evicted"] == alone["retention"]["cells_evicted"]
    # until two words are almost equally likely: the last bits depend on how many tokens are computed at once
    same = os.path.commonprefix([evicted["content"], alone["content"]])
    assert len(same) > len(alone["content"]) / 2
    assert evicted["retention"]["cells_evicted"] > 0


def test_several_choices_share_the_prompt(small: Server) -> None:
    body = {"prompt": words(300, 3), "n": 3, "max_tokens": 8, "temperature": 1.0, "seed": 1}
    status, reply = ask(small, "POST", "/v1/completions", body)
    assert status == 200 and len(reply["choices"]) == 3
    _, told = ask(small, "GET", "/retention")
    assert sum(slot["tokens_seen"] > 0 for slot in told["slots"]) >= 1


def test_an_edited_question_goes_on_from_the_checkpoint(server: Server) -> None:
    def asked(*contents: str) -> dict:  # type: ignore[type-arg]
        roles = ("user", "assistant")
        messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
        body = {"messages": messages, "max_tokens": 4, "temperature": 0, "id_slot": 0}
        status, reply = ask(server, "POST", "/v1/chat/completions", body)
        assert status == 200, reply
        return reply["timings"]

    first, second = words(260, 4), words(120, 5)
    asked(first)
    asked(first, "Yes.", second)
    _, told = ask(server, "GET", "/retention")
    assert 1 <= told["slots"][0]["checkpoints"] <= 3 and told["slots"][0]["checkpoint_bytes"] > 0
    edited = asked(first, "Yes.", "No: " + second)
    assert edited["cache_n"] > 200, "the whole prompt was read again"
