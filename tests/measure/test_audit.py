"""What an audit makes of divergences: texts and windows, the verdict, the worst places, and its JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import TinyFiles
from retain_local import Llama
from retain_local.audit.as_json import audit_as_dict
from retain_local.audit.reading import audit_texts
from retain_local.audit.verdict import DEFAULT_MAX_KL, Bound, conclusion, recommend
from retain_local.audit.worst import APART, BEFORE, worst_places
from retain_local.divergence.texts import make_texts, read_files, token_text
from retain_local.errors import RetainError, UsageError
from retain_local.options.budget import Budget
from retain_local.options.retention_options import RetentionOptions
from retain_local.report.style import shown
from runtime.test_safe_tokenizer import write_vocabulary
from support.audits import letter, make_audit, make_budget
from support.divergences import made_up
from support.llamas import load, text


@pytest.fixture(scope="module")
def llm(tiny: TinyFiles) -> Iterator[Any]:
    llm = load(tiny.model("llama"), policy="none", budget=1, sinks=0, gates=None, n_ctx=512, n_ubatch=16, n_batch=16)
    yield llm
    llm.close()


def audited(llm: Any, contents: dict[str, str], budgets: str, window: int | None = None, **options: Any) -> Any:
    parsed = [Budget.parse(budget) for budget in budgets.split(",")]
    retention = RetentionOptions(**{"policy": "window", "gates": None, "buffer": 16, **options})
    return audit_texts(llm, make_texts(llm, contents, window), parsed, retention)


# the verdict in words


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ({128: 1.02, 64: 1.1, 32: 1.3}, "do not evict on texts like these"),
        (
            {128: 0.99, 64: 0.93, 32: 1.3},
            "but 64 predicts these texts better than the full cache does (PPL ratio 0.930)",
        ),
        (
            {128: 1.02, 64: 1.1, 32: 0.998},
            "but 32 predicts these texts better than the full cache does (PPL ratio 0.998)",
        ),
    ],
)
def test_what_predicts_better_is_not_advised_against(ratios: dict[int, float], expected: str) -> None:
    audit = make_audit(dict.fromkeys(ratios, 0.2), nll_more={cells: np.log(r) for cells, r in ratios.items()})
    bound = Bound.make(None, None)
    assert recommend(audit, bound) is None
    words = "".join(conclusion(audit, bound, None))
    assert words.startswith("no budget is within the bound (mean KL at most 0.05)") and expected in words
    assert ("do not evict" in words) == (min(ratios.values()) >= 1)


# texts


def test_pieces_are_the_text(llm: Any) -> None:
    content = "one line\nand anöther, with 日本\n\tand an end"
    (whole,) = make_texts(llm, {"a.txt": content}, None)
    assert "".join(whole.pieces) == content
    assert whole.tokens[0] == llm.token_bos() and whole.pieces[0] == ""
    assert len(whole.pieces) == len(whole.tokens)
    assert whole.line_of(content.index("日") + 1) == 2


def test_windows_are_equal_and_begin_as_a_text_does(llm: Any) -> None:
    content = "".join(f"line {i}\n" for i in range(100))
    windows = make_texts(llm, {"a.txt": content}, 100)
    assert len(windows) == -(-len(content) // 99)
    assert {window.tokens[0] for window in windows} == {llm.token_bos()}
    lengths = [len(window.tokens) for window in windows]
    assert max(lengths) <= 100 and max(lengths) - min(lengths) <= 1
    assert "".join(piece for window in windows for piece in window.pieces) == content
    for window in windows[1:]:
        before = content[: content.index("".join(window.pieces))]
        assert window.line == 1 + before.count("\n")


def test_a_window_that_holds_the_text_leaves_it_whole(llm: Any) -> None:
    assert make_texts(llm, {"a": text(50)}, 512) == make_texts(llm, {"a": text(50)}, None)


def test_what_looks_like_a_special_token_is_text(llm: Any) -> None:
    (found,) = make_texts(llm, {"a.txt": "</s>"}, None)
    assert llm.token_eos() not in found.tokens


def test_texts_that_are_refused(llm: Any, tmp_path: Path) -> None:
    with pytest.raises(RetainError, match=r"a has 601 tokens, more than the context of 512: cut it with --window 512"):
        make_texts(llm, {"a": text(600)}, None)
    for window in (5, 513, -1):
        with pytest.raises(UsageError, match="out of range: 16 to 512"):
            make_texts(llm, {"a": text(600)}, window)
    bare = Llama(write_vocabulary(tmp_path / "bare.gguf", bytes_too=False), vocab_only=True)
    with pytest.raises(RetainError, match=r"b.txt: the model's vocabulary cannot express the character 'Z'"):
        make_texts(bare, {"b.txt": "abZ"}, None)


def test_files_that_are_refused(tmp_path: Path) -> None:
    for name, content, message in [
        ("empty.txt", b"", "empty.txt is empty"),
        ("blank.txt", b" \n\n", "blank.txt is empty"),
        ("latin.txt", b"h\xe9", r"latin.txt is not UTF-8 text \(byte 1\)"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RetainError, match=message):
            read_files([tmp_path / name])
    with pytest.raises(RetainError, match="absent.txt cannot be read"):
        read_files([tmp_path / "absent.txt"])
    (tmp_path / "good.txt").write_text("text")
    with pytest.raises(UsageError, match="named twice"):
        read_files([tmp_path / "good.txt", tmp_path / "good.txt"])


# running


def test_budgets_are_shares_of_each_text_or_numbers(llm: Any) -> None:
    found = audited(llm, {"a": text(400), "b": text(200, 1)}, "1/8,1/4,60,450")
    assert [str(one.budget) for one in found.budgets] == ["450", "1/4", "60", "1/8"]
    assert [[part.cache.budget for part in one.divergences] for one in found.budgets] == [
        [400, 200], [100, 50], [60, 60], [50, 25],
    ]  # fmt: skip
    assert [one.cells for one in found.budgets] == [450, 100, 60, 50]
    assert [one.evicts for one in found.budgets] == [False, True, True, True]
    covers, *evict = found.budgets
    assert covers.summary.kl_max < 1e-9
    for one in evict:
        assert set(one.files) == {"a", "b"}
        assert one.bytes_peak == max(part.cache.bytes_peak for part in one.divergences) < one.bytes_full
        assert min(one.files["a"].kl_mean, one.files["b"].kl_mean) < one.summary.kl_mean
    assert (found.policy, found.scope, found.gates, found.n_chunk) == ("window", "global", None, 16)
    assert found.settings["buffer"] == 16 and found.settings["type_k"] == "f32"


def test_windows_of_a_file_are_judged_together(llm: Any) -> None:
    found = audited(llm, {"a": text(400)}, "1/4", window=150)
    assert [len(one.tokens) for one in found.texts] == [134, 134, 135]
    assert found.budgets[0].files == {"a": found.budgets[0].summary}


def test_progress_is_over_all_texts(llm: Any) -> None:
    seen: list[tuple[int, int]] = []
    texts = make_texts(llm, {"a": text(100), "b": text(50)}, None)
    options = RetentionOptions(policy="window", gates=None)
    audit_texts(llm, texts, [Budget(cells=20), Budget(cells=30)], options, lambda *args: seen.append(args))
    counts = [done for done, _ in seen]
    assert counts == sorted(counts) and counts[-1] == 450 and {total for _, total in seen} == {450}


def test_what_cannot_be_audited(llm: Any) -> None:
    with pytest.raises(UsageError, match="'none' never evicts"):
        audited(llm, {"a": text(100)}, "1/4", policy="none")
    with pytest.raises(UsageError, match=r"sinks \(4\) and recent \(0\) together are more than the budget of 3 cells"):
        audited(llm, {"a": text(100)}, "3")
    with pytest.raises(RetainError, match="needs gates"):
        audited(llm, {"a": text(100)}, "1/4", policy="gate", gates="auto")


# the verdict


def test_the_smallest_budget_within_the_bound_is_recommended() -> None:
    audit = make_audit({80: 0.001, 40: 0.02, 20: 0.04, 10: 0.3})
    assert recommend(audit, Bound.make(None, None)).cells == 20
    assert recommend(audit, Bound.make(0.03, None)).cells == 40
    assert recommend(audit, Bound.make(1, None)).cells == 10
    assert recommend(audit, Bound.make(0.0001, None)) is None


def test_a_budget_that_covers_the_texts_is_never_recommended() -> None:
    assert recommend(make_audit({100: 0.0, 50: 0.4}, covered=(100,)), Bound.make(None, None)) is None
    assert recommend(make_audit({100: 0.0, 50: 0.0}, covered=(100,)), Bound.make(0, None)).cells == 50


def test_the_bound_must_hold_in_every_file() -> None:
    good, bad = made_up([0.0] * 300), made_up([0.2] * 20)
    budget = make_budget("40", [good, bad])
    assert budget.summary.kl_mean < DEFAULT_MAX_KL
    assert not Bound.make(None, None).allows(budget)
    assert Bound.make(None, None).allows(make_budget("40", [good, bad], files=["a.txt", "a.txt"]))


def test_agreement_can_be_the_bound_or_a_part_of_it() -> None:
    budget = make_budget("40", [made_up([0.2] * 100, disagree=10)])
    assert Bound.make(None, 0.9).allows(budget) and not Bound.make(None, 0.91).allows(budget)
    assert Bound.make(0.2, 0.9).allows(budget) and not Bound.make(0.1, 0.9).allows(budget)
    assert str(Bound.make(0.2, 0.9)) == "mean KL at most 0.2 and agreement at least 0.9"


@pytest.mark.parametrize("bound", [(-1, None), (float("nan"), None), (float("inf"), None), (None, 1.5), (None, -0.1)])
def test_bounds_that_are_none(bound: tuple[float | None, float | None]) -> None:
    with pytest.raises(UsageError, match="it must be"):
        Bound.make(*bound)


# the worst places


def test_worst_places_are_apart_and_in_order() -> None:
    kl = np.zeros(200)
    kl[[100, 101, 102, 180, 5]] = 3, 5, 4, 2, 1
    places = worst_places(make_budget("40", [made_up(kl.tolist())]), 9, letter)
    assert [(place.token, place.kl) for place in places] == [(102, 5), (181, 2), (6, 1)]
    worst = places[0]
    assert worst.came == "w102 " and worst.line == 11 and (worst.full, worst.cache) == ("a", "a")
    assert worst.before.endswith("w100\nw101 ") and len(worst.before) == BEFORE


def test_worst_places_come_from_all_texts() -> None:
    one, two = [0.0] * 50, [0.0] * 50
    one[20], two[49], two[0] = 1, 2, 0.5
    budget = make_budget("40", [made_up(one), made_up(two, disagree=1)])
    places = worst_places(budget, 2, letter)
    assert [(place.file, place.token) for place in places] == [("1.txt", 50), ("0.txt", 21)]
    assert [(place.full, place.cache) for place in places] == [("a", "b"), ("a", "a")]
    assert worst_places(budget, 3, letter)[:2] == places


def test_neighbours_of_a_place_are_left_out_to_the_token() -> None:
    kl = np.linspace(1, 2, 4 * APART)
    places = worst_places(make_budget("40", [made_up(kl.tolist())]), 3, letter)
    assert [place.token for place in places] == [4 * APART, 3 * APART, 2 * APART]


def test_control_codes_do_not_reach_a_terminal() -> None:
    assert shown("a\n\tb\x1b[2J\r") == "a⏎⇥b\N{REPLACEMENT CHARACTER}[2J␍"


# JSON


def test_json_has_every_number(llm: Any) -> None:
    audit = audited(llm, {"a": text(300), "b": text(100, 1)}, "1/4,1/2")
    bound = Bound.make(100, None)
    best = recommend(audit, bound)
    found = json.loads(json.dumps(audit_as_dict(audit, bound, best, lambda token: token_text(llm, token))))
    assert found["recommended"] == {"budget": "1/4", "cells": best.cells, "recall": 0.0}
    assert found["bound"] == {"max_kl": 100, "min_agreement": None}
    assert "".join(found["texts"][0]["tokens"]) == text(300) and found["texts"][0]["n_tokens"] == 301
    for one, written in zip(audit.budgets, found["budgets"]):
        assert written["cells"] == one.cells and written["within_bound"]
        assert written["summary"]["kl_mean"] == one.summary.kl_mean and set(written["files"]) == {"a", "b"}
        for part, entry in zip(one.divergences, written["texts"]):
            np.testing.assert_allclose(entry["kl"], part.kl, rtol=1e-3, atol=1e-12)
            assert 1 - len(entry["disagrees"]) / len(part.kl) == pytest.approx(part.agrees.mean())
            assert entry["n_whole"] == part.n_whole and entry["bytes_peak"] == part.cache.bytes_peak
        worst = written["worst"][0]
        assert worst["kl"] == pytest.approx(one.summary.kl_max)
        assert worst["came"] == found["texts"]["ab".index(worst["file"])]["tokens"][worst["token"]]
