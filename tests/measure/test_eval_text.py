"""Text tasks of an evaluation: what is recorded is what saved logits say, in every arm, whatever stopped the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from conftest import TinyFiles
from measure.test_eval_run import ARCH, LOAD, make_plan, results
from retain_local.errors import RetainError, UsageError
from retain_local.evaluation import text_run
from retain_local.evaluation.arms import make_arms
from retain_local.evaluation.markdown import render_markdown
from retain_local.evaluation.plan import Plan, prepare_tasks
from retain_local.evaluation.points import points_by_task, points_together
from retain_local.evaluation.records import Record
from retain_local.evaluation.source import find_sources
from retain_local.evaluation.table import print_results
from retain_local.evaluation.text_points import text_points
from support.divergences import kl_of_logits, nll_of_logits
from support.llamas import load, text

WINDOW = {"n_tokens": 150}
ARMS = make_arms(["gate", "window:head", "snapkv"], ["1/2", "20"])


def text_plan(tiny: TinyFiles, path: Path, **changes: Any) -> Plan:
    """Three windows of a text in seven arms."""
    path.write_text(text(400))
    return make_plan(tiny, sources=find_sources([f"text:{path}"], WINDOW), arms=ARMS, parameters=WINDOW, **changes)


@pytest.fixture(scope="module")
def whole(tiny: TinyFiles, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    return results(text_plan(tiny, tmp_path_factory.mktemp("text") / "a.txt"))


def test_records_are_those_of_saved_logits(tiny: TinyFiles, whole: list[Record], tmp_path: Path) -> None:
    """Against caches of their own, one after the other, and SciPy."""
    plan = text_plan(tiny, tmp_path / "a.txt")
    (task,) = prepare_tasks(plan)
    assert [len(item.tokens) for item in task.items] == [134, 134, 135] and len(whole) == 3 * len(ARMS)
    tokens = task.items[1].tokens

    def logits(**options: Any) -> np.ndarray:
        llm = load(tiny.model(ARCH), logits_all=True, **(LOAD | {"n_ctx": task.n_ctx} | options))
        llm.eval(tokens[:-1])
        found = np.array(llm.scores[: len(tokens) - 1], np.float64)
        llm.close()
        return found

    full = logits(policy="none", gates=None, sinks=0)
    for arm in ARMS[1:]:
        gates = tiny.gates(ARCH) if arm.policy == "gate" else None
        other = logits(policy=arm.policy, scope=arm.scope, budget=arm.budget.of(len(tokens) - 1), gates=gates)
        (record,) = (record for record in whole if (record.arm, record.item) == (str(arm), 1))
        half = (len(tokens) - 1) // 2
        np.testing.assert_allclose(record.kl, kl_of_logits(full, other)[half:], rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(record.nll, nll_of_logits(other, tokens)[half:], rtol=1e-4)
        assert record.scores == (full.argmax(axis=1) == other.argmax(axis=1))[half:].astype(int).tolist()
        assert record.n_budget == arm.budget.of(len(tokens) - 1) and record.n_prompt == len(tokens) - 1
        assert np.mean(record.kl) > 1e-3, "the arm should differ, or this shows nothing"
    (record,) = (record for record in whole if (record.arm, record.item) == ("full", 1))
    np.testing.assert_allclose(record.nll, nll_of_logits(full, tokens)[half:], rtol=1e-4)
    assert not any(record.kl) and all(record.scores)


def test_the_full_cache_reads_a_window_once(
    tiny: TinyFiles, whole: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = []
    diverge = text_run.diverge
    monkeypatch.setattr(text_run, "diverge", lambda llm, tokens, options, **more: caches.append(len(options)) or diverge(
        llm, tokens, options, **more
    ))  # fmt: skip
    assert results(text_plan(tiny, tmp_path / "a.txt")) == whole, "two runs are identical"
    assert caches == [len(ARMS) - 1] * 3, "beside the full one"


@pytest.mark.parametrize("stop_after", [1, 4, 9])
def test_a_killed_run_goes_on_to_the_same_results(
    tiny: TinyFiles, whole: list[Record], tmp_path: Path, stop_after: int
) -> None:
    """Also from the middle of a window, of which some arms were written."""
    plan = text_plan(tiny, tmp_path / "a.txt")
    results(plan, tmp_path / "r.jsonl", stop_after=stop_after)
    assert results(plan, tmp_path / "r.jsonl") == whole
    assert results(plan, tmp_path / "jobs.jsonl", n_jobs=2) == whole


def test_beside_questions_and_with_arms_added(tiny: TinyFiles, whole: list[Record], tmp_path: Path) -> None:
    plan = text_plan(tiny, tmp_path / "a.txt")
    questions = make_plan(tiny).sources[:1]
    few = results(replace(plan, arms=ARMS[:2]), tmp_path / "r.jsonl")
    assert [record for record in whole if record.arm in ("full", "gate 1/2")] == few
    both = results(replace(plan, sources=plan.sources + questions), tmp_path / "r.jsonl")
    assert sorted((record for record in both if record.is_text), key=str) == sorted(whole, key=str)
    assert list(points_by_task({"": both})) == ["single"] and list(text_points({"": both})) == ["text:a.txt"]
    assert points_together({"": both})[0] == ["single"]


def test_tables(whole: list[Record]) -> None:
    points = text_points({"": whole})["text:a.txt"]
    assert [point.is_full for point in points] == [True] + [False] * 6
    full, first = points[:2]
    assert full.n_tokens == first.n_tokens == 3 * 67
    own = [record for record in whole if record.arm == "gate 1/2"]
    assert first.kl[0] == pytest.approx(np.mean([record.kl for record in own]))
    assert first.kl[1] <= first.kl[0] <= first.kl[2]
    ratio = np.exp(np.mean([r.nll for r in own]) - np.mean([r.nll for r in whole if r.arm == "full"]))
    assert first.ratio[0] == pytest.approx(ratio) and first.perplexity == pytest.approx(ratio * full.perplexity)
    console = Console(width=80, record=True, file=open("/dev/null", "w"))
    print_results(console, {"": whole}, {})
    shown = console.export_text()
    assert (
        f"a.txt, against the full cache (PPL {full.perplexity:.3f}), 201 tokens" in shown
        and "…" not in shown.split("What it took")[0]
    )
    assert "questions" not in shown and f"{first.kl[0]:.4f} ±" in shown and "What it took" in shown
    assert f"| gate | 1/2 | {first.kl[0]:.4f} ±" in render_markdown({"": whole}, {})


def test_the_first_windows_alone(tiny: TinyFiles, whole: list[Record], tmp_path: Path) -> None:
    assert results(text_plan(tiny, tmp_path / "a.txt", n_items=2)) == [one for one in whole if one.item < 2]


def test_what_is_refused(tiny: TinyFiles, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.txt").write_text(text(100))
    for name, message in (
        ("text:", "names no file"),
        (f"text:{tmp_path / 'absent.txt'}", "absent.txt cannot be read: No such file"),
        (f"text:{tmp_path / 'empty.txt'}", "empty.txt is empty"),
    ):
        with pytest.raises(RetainError, match=message):
            find_sources([name], {})
    plan = text_plan(tiny, tmp_path / "a.txt")
    with pytest.raises(UsageError, match="2 files of text:a.txt"):
        find_sources([f"text:{tmp_path / 'a.txt'}", f"text:{tmp_path / 'b' / 'a.txt'}"], {})
    with pytest.raises(UsageError, match="--hops makes no difference"):
        find_sources([f"text:{tmp_path / 'a.txt'}"], {"n_hops": 2})
    with pytest.raises(UsageError, match="window of 150 tokens is out of range: 16 to 128, the context"):
        prepare_tasks(replace(plan, load=plan.load | {"n_ctx": 128}))
    with pytest.raises(UsageError, match="with prefill 'full' nothing is evicted"):
        prepare_tasks(replace(plan, load=plan.load | {"prefill": "full"}))
    with pytest.raises(UsageError, match="less than the 70 cells that --sinks"):
        prepare_tasks(replace(plan, load=plan.load | {"sinks": 70}))
