"""Saving and loading the state of a `Llama`."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import TinyFiles
from retain_local.errors import RetainError
from support.llamas import DEFAULTS, greedy, kept, load, prompt


def small(tiny: TinyFiles, **options):
    return load(tiny.model("llama"), gates=tiny.gates("llama"), **{"budget": 48, "buffer": 16, **options})


def test_going_on_from_a_state(tiny: TinyFiles) -> None:
    llm = small(tiny)
    tokens = prompt(llm, 200)
    llm.eval(tokens[:150])
    state, at_150 = llm.save_state(), kept(llm)
    expected = greedy(llm, tokens, 20)
    llm.load_state(state)
    assert (llm.n_tokens, kept(llm)) == (150, at_150)
    assert greedy(llm, tokens, 20) == expected


def test_a_state_is_no_larger_than_its_cells(tiny: TinyFiles) -> None:
    llm = small(tiny)
    llm.eval(prompt(llm, 200))
    state = llm.save_state()
    assert state.scores.size == 0 and len(state.input_ids) == 200
    stats = llm.retention.stats()
    assert state.llama_state_size < stats.cells_kept * (stats.bytes_cell + 8) + 4096 + 4 * llm.n_vocab()


def test_pins_travel_with_a_state(tiny: TinyFiles) -> None:
    llm, other = small(tiny, sinks=0), small(tiny, sinks=0)
    llm.retention.pin(20, 30)
    llm.eval(prompt(llm, 150))
    other.retention.pin(60, 62)
    other.load_state(llm.save_state())
    assert other.retention.pins == ((20, 30),)
    other.eval(prompt(llm, 100, seed=1))
    assert all(set(range(20, 30)) <= set(positions) for positions in kept(other))


def test_a_fresh_process_goes_on_with_the_same_tokens(tiny: TinyFiles, tmp_path: Path) -> None:
    llm = small(tiny)
    tokens = prompt(llm, 200)
    llm.eval(tokens[:190])
    (tmp_path / "state").write_bytes(pickle.dumps(llm.save_state()))
    script = """
import pickle, sys
from retain_local import Llama
from support.llamas import greedy
model, gates, state, defaults, tokens = sys.argv[1:]
llm = Llama(model, gates=gates, budget=48, buffer=16, **eval(defaults))
llm.load_state(pickle.loads(open(state, "rb").read()))
print(greedy(llm, eval(tokens), 20))
"""
    arguments = [tiny.model("llama"), tiny.gates("llama"), tmp_path / "state", repr(DEFAULTS), repr(tokens)]
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == repr(greedy(llm, tokens, 20))


def damaged(state, change):
    bad = copy.copy(state)
    bad.llama_state = change(bytearray(state.llama_state))
    bad.llama_state_size = len(bad.llama_state)
    return bad


def flip(data: bytearray, at: int) -> bytes:
    data[at] ^= 0x40
    return bytes(data)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: bytes(data[:-100]),
        lambda data: bytes(data[: len(data) // 2]),
        lambda data: b"",
        lambda data: flip(data, len(data) // 2),
        lambda data: flip(data, len(data) - 1),
        lambda data: b"\0" * len(data),
    ],
)
def test_a_damaged_state_leaves_the_session(tiny: TinyFiles, change) -> None:
    llm = small(tiny)
    tokens = prompt(llm, 220)
    llm.eval(prompt(llm, 120, seed=1))
    bad = damaged(llm.save_state(), change)
    llm.reset()
    llm.eval(tokens[:200])
    before, stats = kept(llm), llm.retention.stats()
    with pytest.raises(RetainError) as caught:
        llm.load_state(bad)
    assert "\n" not in str(caught.value)
    assert kept(llm) == before and llm.n_tokens == 200 and llm.retention.stats().cells_kept == stats.cells_kept
    fresh = small(tiny)
    fresh.eval(tokens[:200])
    assert greedy(llm, tokens, 10) == greedy(fresh, tokens, 10)


def test_bytes_after_a_state_are_not_read(tiny: TinyFiles) -> None:
    llm = small(tiny)
    llm.eval(prompt(llm, 120))
    longer, before = damaged(llm.save_state(), lambda data: bytes(data) + b"more"), kept(llm)
    llm.eval(prompt(llm, 50, seed=1))
    llm.load_state(longer)
    assert (llm.n_tokens, kept(llm)) == (120, before)


def test_states_that_do_not_fit(tiny: TinyFiles) -> None:
    llm = small(tiny)
    llm.eval(prompt(llm, 100))
    state = llm.save_state()
    other = load(tiny.model("qwen3"), gates=tiny.gates("qwen3"), budget=48)
    other.eval(prompt(other, 60))
    before = kept(other)
    with pytest.raises(RetainError, match="refused"):
        other.load_state(state)
    assert kept(other) == before and other.n_tokens == 60

    too_long = copy.copy(state)
    too_long.n_tokens = 10**6
    with pytest.raises(RetainError, match="do not fit the context"):
        llm.load_state(too_long)
    lying = copy.copy(state)
    lying.llama_state_size += 1
    with pytest.raises(RetainError, match="damaged"):
        llm.load_state(lying)
    with pytest.raises(RetainError, match="logits_all"):
        small(tiny, logits_all=True).load_state(state)


def test_logits_travel_with_a_state(tiny: TinyFiles) -> None:
    llm = small(tiny, logits_all=True)
    llm.eval(prompt(llm, 80))
    state, scores = llm.save_state(), llm.scores[:80].copy()
    llm.reset()
    llm.eval(prompt(llm, 80, seed=1))
    llm.load_state(state)
    assert (llm.scores[:80] == scores).all()
