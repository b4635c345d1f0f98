"""`retain-local demo`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from retain_local.demo.conversation import make_conversation
from retain_local.errors import RetainError, UsageError
from retain_local.tasks import count_words
from support.command_line import run


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> str:
    done = run(tmp_path_factory.mktemp("demo"), "demo", COLUMNS="140")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_shows_what_each_cache_answers(screen: str) -> None:
    full, gates, window = (int(n) for n in re.search(r"right .* (\d) of 9 .* (\d) of 9 .* (\d) of 9", screen).groups())
    assert full >= 8 and gates >= 7 and window <= 4


def test_it_shows_what_each_cache_takes(screen: str) -> None:
    assert all(label in screen for label in ("full cache", "gates, budget 64", "window, budget 64"))
    kept = re.search(r"cells kept of the conversation +│ +([\d,]+) +│ +([\d,]+) +│ +([\d,]+)", screen)
    full, gates, window = (int(n.replace(",", "")) for n in kept.groups())
    most = 4 * 2 * (64 + 64)  # the budget and a ubatch: an eviction that is due waits for the next token
    assert gates <= most and window <= most and full > 8 * gates
    assert screen.count("tok/s") == 6 and "layer.head" in screen


def test_the_conversation() -> None:
    a, b, other = make_conversation(1, 700), make_conversation(1, 700), make_conversation(2, 700)
    assert a == b != other
    text = " ".join(content for role, content in a.item.turns if role == "user")
    assert all(sentence in text for sentence in a.facts | a.decoys) and not a.facts & a.decoys
    assert 650 < count_words(text) < 750
    assert len(a.item.questions) == 9


@pytest.mark.parametrize(
    "options, message",
    [
        ((4, 512), "budget is 4"),
        (("1/128", 512), "budget is 4"),
        ((64, 100), "tokens is 100"),
        (("x", 512), "not a number"),
    ],
)
def test_out_of_range(options: tuple[int, int], message: str) -> None:
    from retain_local.demo.show import run_demo

    with pytest.raises(UsageError, match=message):
        run_demo(*options, seed=0)


def test_without_the_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from retain_local.demo import show as demo

    monkeypatch.setattr(demo, "BUNDLED_MODEL", tmp_path / "absent.gguf")
    with pytest.raises(RetainError, match="the bundled model is not there"):
        demo.run_demo(budget=64, n_tokens=512, seed=0)
