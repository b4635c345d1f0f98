"""Conversations with the server beside the same ones with `Llama`: what is read, what is kept, what is answered."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from retain_local import Llama
from retain_local.paths import BUNDLED_MODEL
from retain_local.server import Server
from support.servers import ask

BUDGET, CONTEXT, TURNS, MAX_TOKENS = 48, 2048, 8, 24
NAMES = "Ann Bob Cleo Dan Eve Finn Gus Hal Ida Jon".split()
THINGS = "red blue green old new small large heavy light round".split()


def question(rng: random.Random) -> str:
    facts = [f"{rng.choice(NAMES)} has the {rng.choice(THINGS)} one." for _ in range(rng.randint(2, 9))]
    return " ".join([*facts, f"What has {rng.choice(NAMES)}?"])


def conversation(server: Server, slot: int) -> list[dict[str, Any]]:
    """What the server replies in a slot, turn after turn, with the messages until then."""
    rng = random.Random(slot)
    messages: list[dict[str, str]] = []
    turns = []
    for _ in range(TURNS):
        messages.append({"role": "user", "content": question(rng)})
        body = {"messages": messages, "temperature": 0, "max_tokens": MAX_TOKENS, "id_slot": slot}
        status, reply = ask(server, "POST", "/v1/chat/completions", body, key=None)
        assert status == 200, reply
        turns.append({"messages": [*messages], **reply})
        messages.append({"role": "assistant", "content": reply["choices"][0]["message"]["content"]})
    return turns


def test_slots_that_are_computed_together_reply_as_the_class_does_alone() -> None:
    options = {"budget": BUDGET}
    started = Server(BUNDLED_MODEL, parallel=3, ctx_size=CONTEXT, arguments=("--threads", "1"), **options)
    with started as server, ThreadPoolExecutor(3) as pool:
        slots = list(pool.map(lambda slot: conversation(server, slot), range(3)))
    n_same = 0
    for turns in slots:
        llm = Llama(BUNDLED_MODEL, n_ctx=CONTEXT, n_threads=1, n_threads_batch=1, verbose=False, **options)
        for turn in turns:
            made = llm.create_chat_completion(turn["messages"], temperature=0, max_tokens=MAX_TOKENS)
            kept, stats = turn["usage"]["retention"], llm.retention.stats()
            if turn["choices"][0]["message"]["content"] == made["choices"][0]["message"]["content"]:
                assert (kept["cells"], kept["tokens_seen"]) == (stats.cells_kept, stats.tokens_seen)
                n_same += 1
        assert turns[-1]["usage"]["retention"]["cells_evicted"] > 0
    # what is computed together decides the last bits, and so between two words that are almost equally likely
    assert n_same >= 3 * TURNS - 3


def test_a_template_with_a_system_message_of_its_own(smollm2: Path) -> None:
    """It stands before the first message of the user, and must not be taken for the beginning of each."""
    with Server(
        smollm2, budget=128, policy="window", parallel=1, ctx_size=2048, arguments=("--threads", "2")
    ) as server:

        def asked(*contents: str, **more: Any) -> dict[str, Any]:
            roles = ("user", "assistant")
            messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
            status, reply = ask(
                server, "POST", "/v1/chat/completions", {"messages": messages, "max_tokens": 2, **more}, key=None
            )
            assert status == 200, reply
            return reply

        first, second = question(random.Random(1)), " ".join(question(random.Random(n)) for n in range(5))
        asked(first)
        asked(first, "Yes.", second)
        edited = asked(first, "Yes.", "No. " + second)
        assert edited["timings"]["cache_n"] > 30, "the whole prompt was read again"
        kept = asked(first, "Yes.", second, retention={"pins": ["system"]})
        assert kept["usage"]["retention"]["cells"] > 0
        _, told = ask(server, "GET", "/retention", key=None)
        assert told["slots"][0]["pins"] and told["slots"][0]["checkpoints"] > 0
