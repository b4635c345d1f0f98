"""`.retention`: reading what a cache keeps, and steering it."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import TinyFiles
from retain_local.errors import RetainError, UsageError
from retain_local.options.retention_options import policies
from support.llamas import greedy, kept, load, prompt


def small(tiny: TinyFiles, **options):
    return load(tiny.model("llama"), gates=tiny.gates("llama"), **{"budget": 48, "buffer": 16, **options})


def test_cell_lists(tiny: TinyFiles) -> None:
    llm = small(tiny)
    llm.eval(prompt(llm, 200))
    retention = llm.retention
    assert retention.layers == (0, 1, 2) and retention.heads(1) == 2
    stats = retention.stats()
    sizes = [len(retention.positions(layer, head)) for layer in retention.layers for head in range(2)]
    assert sum(sizes) == stats.cells_kept and stats.cell_lists == 6
    assert stats.bytes_full == 200 * 6 * stats.bytes_cell
    assert stats.select_seconds > 0


def test_arrays(tiny: TinyFiles) -> None:
    llm = small(tiny)
    llm.eval(prompt(llm, 200))
    pos, log_beta = llm.retention.positions(0, 1), llm.retention.log_beta(0, 1)
    assert pos.dtype == np.int32 and log_beta.dtype == np.float32 and pos.shape == log_beta.shape
    assert len(np.unique(pos)) == len(pos) and pos.min() >= 0 and pos.max() == 199
    assert (log_beta <= 0).all() and len(np.unique(log_beta)) > 1


def test_there_is_no_such_cell_list(tiny: TinyFiles) -> None:
    llm = small(tiny)
    retention = llm.retention
    with pytest.raises(UsageError, match="layer 7 has no cells in the pool; the layers that have are 0-2"):
        retention.positions(7, 0)
    with pytest.raises(UsageError, match="layer 1 has 2 KV heads; there is no head 2"):
        retention.log_beta(1, 2)
    with pytest.raises(UsageError, match="no head -1"):
        retention.positions(1, -1)


def test_pins_survive_every_eviction(tiny: TinyFiles) -> None:
    llm = small(tiny, sinks=0)
    llm.retention.pin(20, 30)
    greedy(llm, prompt(llm, 300), 50)
    assert all(set(range(20, 30)) <= set(positions) for positions in kept(llm))


def test_pins_stay_for_another_prompt(tiny: TinyFiles) -> None:
    llm = small(tiny, sinks=0)
    llm.retention.pin(20, 30)
    greedy(llm, prompt(llm, 200), 5)
    greedy(llm, prompt(llm, 200, seed=1), 5)
    assert all(set(range(20, 30)) <= set(positions) for positions in kept(llm))


def test_unpinned_positions_go(tiny: TinyFiles) -> None:
    llm, plain = small(tiny, sinks=0), small(tiny, sinks=0)
    llm.retention.pin(20, 30)
    llm.retention.pin(40, 44)
    llm.retention.unpin(25, 41)
    assert llm.retention.pins == ()
    for each in (llm, plain):
        each.eval(prompt(llm, 300))
    assert kept(llm) == kept(plain)


def test_pins_cannot_fill_the_budget(tiny: TinyFiles) -> None:
    llm = small(tiny)
    with pytest.raises(RetainError, match="more than the budget of 48"):
        llm.retention.pin(0, 100)
    assert llm.retention.pins == ()
    with pytest.raises(UsageError, match="not a range"):
        llm.retention.pin(5, 5)
    for start, stop in ((0.0, 5), (-1, 5), (0, 2**31), (False, 5), ("0", 5)):
        with pytest.raises(UsageError, match="must be a whole number"):
            llm.retention.pin(start, stop)
    llm.retention.pin(np.int64(3), np.int64(5))
    assert llm.retention.pins == ((3, 5),)


def test_the_budget_shrinks_and_grows_back(tiny: TinyFiles) -> None:
    llm = small(tiny)
    tokens = prompt(llm, 200)
    llm.eval(tokens)
    llm.retention.set_budget(16)
    assert llm.retention.budget == 16 and llm.retention.stats().cells_kept == 16 * 6
    llm.retention.set_budget(48)
    with pytest.raises(RetainError, match="1 to 48"):
        llm.retention.set_budget(49)
    llm.retention.set_budget(np.int64(32))
    assert llm.retention.budget == 32
    for value in (0, -1, 2.5, "8", True, np.nan, 10**30):
        with pytest.raises(UsageError):
            llm.retention.set_budget(value)


def test_policies_switch(tiny: TinyFiles) -> None:
    llm = small(tiny)
    assert llm.retention.policy == "gate"
    llm.retention.policy = "window"
    llm.eval(prompt(llm, 200))
    assert all(positions == kept(llm)[0] for positions in kept(llm))
    with pytest.raises(UsageError, match="'best' is not one of"):
        llm.retention.policy = "best"
    without = load(tiny.model("llama"), policy="window", budget=48)
    with pytest.raises(RetainError, match="gate"):
        without.retention.policy = "gate"


@pytest.mark.parametrize("policy", [name for name in policies() if name not in ("auto", "gate", "none")])
def test_a_policy_that_was_switched_to_is_the_policy(tiny: TinyFiles, policy: str) -> None:
    """Once everything was read under it, a model that began with another one keeps the same cells."""
    switched, loaded = load(tiny.model("llama"), policy="none"), load(tiny.model("llama"), policy=policy)
    for llm in (switched, loaded):
        llm.retention.policy = policy
        llm.eval(prompt(llm, 200))
        llm.retention.set_budget(48)
    assert kept(switched) == kept(loaded) and switched.retention.stats().cells_kept == 48 * 6


def test_a_scorer_decides(tiny: TinyFiles) -> None:
    scored, window = small(tiny), small(tiny, policy="window")
    scored.retention.set_scorer(lambda layer, head, pos, log_beta, age: pos)
    for llm in (scored, window):
        llm.eval(prompt(llm, 300))
    assert kept(scored) == kept(window)


def test_a_scorer_that_is_none(tiny: TinyFiles) -> None:
    llm = small(tiny)
    with pytest.raises(UsageError, match="a scorer is a function or None, not int"):
        llm.retention.set_scorer(3)
    llm.retention.set_scorer(lambda layer, head, pos, log_beta, age: pos * np.nan)
    with pytest.raises(UsageError, match="it returned some that are not"):
        llm.eval([5] * 300)


def test_what_a_scorer_gets(tiny: TinyFiles) -> None:
    llm = small(tiny)
    calls = []

    def scorer(layer, head, pos, log_beta, age):
        calls.append([array.copy() for array in (layer, head, pos, log_beta, age)])
        return age * log_beta

    llm.retention.set_scorer(scorer)
    plain = small(tiny)
    for each in (llm, plain):
        each.eval(prompt(llm, 200))
    assert kept(llm) == kept(plain)
    layer, head, pos, log_beta, age = calls[0]
    assert {array.shape for array in calls[0]} == {layer.shape}
    assert set(layer) == {0, 1, 2} and set(head) == {0, 1}
    seen = pos.max() + 1
    assert (age == seen + 1 - pos).all() and (log_beta < 0).all()


def test_a_scorer_is_taken_out(tiny: TinyFiles) -> None:
    llm, plain = small(tiny), small(tiny)
    llm.retention.set_scorer(lambda *arrays: 1 / 0)
    llm.retention.set_scorer(None)
    for each in (llm, plain):
        each.eval(prompt(llm, 200))
    assert kept(llm) == kept(plain)


@pytest.mark.parametrize(
    "scorer, error",
    [
        (lambda *arrays: 1 / 0, ZeroDivisionError),
        (lambda layer, head, pos, log_beta, age: pos[:-1], UsageError),
        (lambda layer, head, pos, log_beta, age: pos * np.nan, UsageError),
        (lambda *arrays: "nonsense", ValueError),
    ],
)
def test_what_a_scorer_raises_comes_out(tiny: TinyFiles, scorer, error) -> None:
    llm, plain = small(tiny), small(tiny)
    tokens = prompt(llm, 200)
    llm.retention.set_scorer(scorer)
    with pytest.raises(error):
        llm.eval(tokens)
    # that eviction used the policy's own scores, and the tokens are in
    plain.eval(tokens)
    assert kept(llm) == kept(plain) and llm.n_tokens == 200


def test_the_system_message_is_pinned(tiny: TinyFiles) -> None:
    system = "you are a cat that"
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "abc " * 60}]
    pinned, plain = small(tiny, sinks=0, pin_system=True), small(tiny, sinks=0)
    for llm in (pinned, plain):
        llm.create_chat_completion(messages, max_tokens=3)
    (pin,) = pinned.retention.pins
    head = pinned.detokenize(pinned.input_ids[: pin.stop].tolist(), special=True).decode()
    assert pin.start == 0 and head.endswith(system)
    assert all(set(range(pin.stop)) <= set(positions) for positions in kept(pinned))
    assert not all(set(range(pin.stop)) <= set(positions) for positions in kept(plain))


def test_the_pin_follows_the_system_message(tiny: TinyFiles) -> None:
    llm = small(tiny, pin_system=True)
    user = {"role": "user", "content": "abc " * 40}
    ends = []
    for system in ("short", "a longer one"):
        llm.create_chat_completion([{"role": "system", "content": system}, user], max_tokens=2)
        ends.append(llm.retention.pins[0].stop)
    assert ends[1] - ends[0] == len("a longer one") - len("short")
    llm.create_chat_completion([user], max_tokens=2)
    assert llm.retention.pins == ()


def test_a_system_message_larger_than_the_budget(tiny: TinyFiles) -> None:
    llm = small(tiny, pin_system=True)
    messages = [{"role": "system", "content": "abc " * 40}, {"role": "user", "content": "hi"}]
    with pytest.raises(RetainError, match="more than the budget of 48"):
        llm.create_chat_completion(messages, max_tokens=2)
