"""What only this server does: settings of a request, what it tells, and reuse of a prefix over a cache that evicts."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from retain_local.paths import BUNDLED_MODEL
from retain_local.server import Server
from support.servers import KEY, ask, complete
from support.servers import SMALL_BUDGET as BUDGET
from support.servers import SMALL_SLOTS as SLOTS

N_LAYERS, UBATCH = 4, 32
N_CELL_LISTS = N_LAYERS * 2  # KV heads of the bundled model


def words(n: int, seed: int = 0) -> str:
    """A text of n words, more tokens than that."""
    return " ".join(random.Random(seed).choices("the of and to in is that it was for".split(), k=n))


def slot(small: Server, number: int) -> dict[str, Any]:
    status, told = ask(small, "GET", "/retention")
    assert status == 200
    return told["slots"][number]


def test_a_prompt_longer_than_the_budget_is_read_whole(small: Server) -> None:
    reply = complete(small, words(1500), id_slot=0, cache_prompt=False)
    kept = reply["retention"]
    assert reply["timings"]["prompt_n"] > 1400 and kept["tokens_seen"] == reply["timings"]["prompt_n"]
    assert BUDGET <= kept["cells"] / N_CELL_LISTS <= BUDGET + UBATCH
    assert kept["cells_seen"] == kept["tokens_seen"] * N_CELL_LISTS == kept["cells"] + kept["cells_evicted"]
    assert kept["bytes_full"] / kept["bytes"] == pytest.approx(kept["cells_seen"] / kept["cells"])


def test_all_slots_together_stay_in_their_bounds(small: Server) -> None:
    for number in range(SLOTS):
        complete(small, words(600, seed=number), id_slot=number)
    _, told = ask(small, "GET", "/retention")
    total = told["total"]
    assert total["cells"] == sum(one["cells"] for one in told["slots"])
    assert total["cells_peak"] <= total["cells_max"] == SLOTS * N_CELL_LISTS * (BUDGET + UBATCH)
    assert total["evictions"] > 0 and total["bytes_used"] <= total["bytes_pool"]


def test_a_follow_up_reads_only_what_is_new(small: Server) -> None:
    text = words(900, seed=3)
    first = complete(small, text, 8, id_slot=0, cache_prompt=False, return_tokens=True)
    more = first["content"] + words(20, seed=4)
    second = complete(small, text + more, 8, id_slot=0)
    new = second["tokens_evaluated"] - first["tokens_evaluated"]
    assert second["timings"]["prompt_n"] <= new + UBATCH, "more than the new tokens and a ubatch were read"


def test_other_settings_are_not_read_into_the_same_cells(small: Server) -> None:
    text = words(900, seed=5)
    complete(small, text, id_slot=0)
    again = complete(small, text + " and", id_slot=0, retention={"budget": 32})
    assert again["timings"]["cache_n"] == 0, "cells chosen under another budget were reused"
    assert again["retention"]["budget"] == 32
    assert again["retention"]["cells"] <= N_CELL_LISTS * (32 + UBATCH)
    same = complete(small, text + " and so", id_slot=0, retention={"budget": 32})
    assert same["timings"]["prompt_n"] <= 2 + UBATCH
    usual = complete(small, text + " and so on", id_slot=0)
    assert usual["timings"]["cache_n"] == 0 and usual["retention"]["budget"] == BUDGET


def test_a_slot_that_left_for_the_prompt_cache_comes_back_with_its_settings(small: Server) -> None:
    text, other = words(700, seed=6), words(700, seed=7)
    pins = {"pins": [[100, 120]]}
    complete(small, text, id_slot=0, cache_prompt=False, retention=pins)
    complete(small, other, id_slot=0)
    back = complete(small, text + " and", id_slot=0, retention=pins)
    assert back["timings"]["cache_n"] > 0
    complete(small, other + " so", id_slot=0)
    usual = complete(small, text + " and", id_slot=0)
    assert usual["timings"]["cache_n"] == 0, "cells chosen with pins were reused without"


def test_pins_are_kept(small: Server) -> None:
    complete(small, words(900, seed=8), id_slot=1, cache_prompt=False, retention={"pins": [[100, 120]]})
    assert slot(small, 1)["pins"] == [[100, 120]]
    _, picture = ask(small, "GET", "/retention/cells?slot=1&bins=512")
    n_seen = picture["tokens_seen"]
    assert picture["layers"] == list(range(N_LAYERS)) and all(len(row) == 512 for row in picture["kept"])
    inside = [i for i in range(512) if i * n_seen / 512 >= 100 and (i + 1) * n_seen / 512 <= 120]
    assert len(inside) > 3 and all(row[i] == 1 for row in picture["kept"] for i in inside)


def test_the_system_message_is_pinned(server: Server) -> None:
    system = "You answer in one word. " + words(40, seed=9)
    body = {
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": words(700, seed=10)}],
        "max_tokens": 1,
        "id_slot": 1,
        "retention": {"pins": ["system"]},
    }
    status, reply = ask(server, "POST", "/v1/chat/completions", body)
    assert status == 200, reply
    [[first, end]] = slot(server, 1)["pins"]
    assert first == 0 and 45 < end < 120
    _, picture = ask(server, "GET", "/retention/cells?slot=1&bins=512")
    n_pinned = end * 512 // picture["tokens_seen"]
    assert all(share == 1 for row in picture["kept"] for share in row[:n_pinned])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (3, "must be an object"),
        ({"budget": BUDGET + 1}, f"from 5 to {BUDGET}"),
        ({"budget": 4}, f"from 5 to {BUDGET}"),
        ({"budget": 1e300}, "whole number"),
        ({"budget": 2**70}, "whole number"),
        ({"budget": "many"}, "whole number"),
        ({"policy": "best"}, "none of gate, window"),
        ({"policy": "knorm"}, "share one policy"),
        ({"pins": [[5, 5]]}, "whole number from 6"),
        ({"pins": [[0]]}, "in tokens"),
        ({"pins": ["user"]}, "in tokens"),
        ({"pins": [[0, 1]] * 65}, "up to 64"),
        ({"buget": 3}, "no field buget"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(small: Server, settings: Any, reason: str) -> None:
    status, reply = ask(small, "POST", "/completion", {"prompt": "a", "n_predict": 1, "retention": settings})
    assert status == 400 and reply["error"]["type"] == "invalid_request_error"
    assert reason in reply["error"]["message"] and "\n" not in reply["error"]["message"]


def test_a_policy_that_needs_gates_is_refused_without(server: Server) -> None:
    status, reply = ask(server, "POST", "/completion", {"prompt": "a", "retention": {"policy": "gate"}})
    assert status == 400 and "needs gates" in reply["error"]["message"]


def test_pins_that_leave_no_budget_are_refused(small: Server) -> None:
    status, reply = ask(
        small, "POST", "/completion", {"prompt": "a", "n_predict": 1, "retention": {"budget": 32, "pins": [[0, 28]]}}
    )
    assert status >= 400 and "leaves nothing of the budget of 32" in reply["error"]["message"]


def test_metrics(small: Server) -> None:
    status, text = ask(small, "GET", "/metrics")
    assert status == 200
    values = dict(re.findall(r"^(llamacpp:retention_\S+) (\d+)$", text, re.MULTILINE))
    assert int(values["llamacpp:retention_cells_evicted_total"]) > 0
    assert int(values['llamacpp:retention_budget{slot="0"}']) == BUDGET
    for name in re.findall(r"^(\w+:retention_\w+)", text, re.MULTILINE):
        assert f"# TYPE {name} " in text, name


def test_a_slot_is_saved_and_restored(small: Server) -> None:
    text = words(800, seed=11)
    complete(small, text, id_slot=0, cache_prompt=False)
    before = slot(small, 0)
    status, saved = ask(small, "POST", "/slots/0?action=save", {"filename": "slot.bin"})
    assert status == 200 and saved["n_saved"] == before["tokens_seen"]
    complete(small, words(300, seed=12), id_slot=0, cache_prompt=False)
    status, restored = ask(small, "POST", "/slots/0?action=restore", {"filename": "slot.bin"})
    assert status == 200 and restored["n_restored"] == saved["n_saved"]
    after = slot(small, 0)
    assert (after["tokens_seen"], after["cells"]) == (before["tokens_seen"], before["cells"])


@pytest.mark.parametrize("query", ["slot=4", "slot=-1", "slot=x", "bins=0", "bins=513"])
def test_wrong_questions_about_cells(small: Server, query: str) -> None:
    status, reply = ask(small, "GET", f"/retention/cells?{query}")
    assert status == 400 and "must be" in reply["error"]["message"]


def test_the_page_needs_no_key_and_what_it_shows_does(small: Server) -> None:
    status, page = ask(small, "GET", "/", key=None)
    assert status == 200 and "What the cache keeps" in page
    assert ask(small, "GET", "/retention", key=None)[0] == 401
    assert ask(small, "GET", "/retention", key=KEY)[0] == 200


def test_the_archive_is_told_apart() -> None:
    with Server(BUNDLED_MODEL, budget=BUDGET, archive="4MiB", parallel=1, n_ubatch=UBATCH, api_key=KEY) as server:
        complete(server, words(900, seed=8))
        _, told = ask(server, "GET", "/retention")
        total = told["total"]
        assert told["recall"] == 0.25 and total["cells_archived"] == total["cells_evicted"] > 0
        assert total["cells_peak"] <= total["cells_max"] == N_CELL_LISTS * (BUDGET * 3 // 4 + UBATCH)
        assert 0 < total["bytes_archived"] <= total["bytes_archive"] <= 2**22
        _, metrics = ask(server, "GET", "/metrics")
        assert f"llamacpp:retention_archived_bytes {total['bytes_archived']}" in metrics
        assert "archive of all slots" in ask(server, "GET", "/")[1]
