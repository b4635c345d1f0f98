"""Running an evaluation on tiny models: the same for every arm, the same again, the same after a kill."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import TinyFiles
from retain_local.bindings.library import LibraryError
from retain_local.chat.template import ChatTemplate
from retain_local.commands.evaluation import EvalRequest
from retain_local.commands.evaluation import _make_plan as make_eval_plan
from retain_local.commands.parts import EVAL
from retain_local.errors import ContextFullError, RetainError, UsageError
from retain_local.evaluation.arms import make_arms
from retain_local.evaluation.benchmarks.benchmark import BenchmarkItem, BenchmarkQuestion
from retain_local.evaluation.benchmarks.metrics import BestOf, contains
from retain_local.evaluation.conversation import Script, ask_all, write_script
from retain_local.evaluation.options import EvalOptions, TaskOptions
from retain_local.evaluation.plan import Plan, prepare_tasks
from retain_local.evaluation.records import Record, RecordFile
from retain_local.evaluation.run import run_units, units_left
from retain_local.evaluation.source import find_sources
from retain_local.options.model_options import ModelOptions
from retain_local.options.retention_options import RetentionOptions
from retain_local.report.files import ReportFiles
from retain_local.tasks import TASKS
from support.llamas import DEFAULTS, load, text
from support.tiny_models import TINY_MODELS

ARCH = "qwen3"  # whose replies differ from question to question

# a token of the tiny models is a character: short texts
SHAPE = {"n_tokens": 60, "n_facts": 3, "n_decoys": 1}
LOAD = {key: value for key, value in DEFAULTS.items() if key != "n_ctx"} | {"buffer": 8, "sinks": 2}
SPEEDS = ("read_seconds", "write_seconds")


def make_plan(tiny: TinyFiles, **changes: Any) -> Plan:
    plan = Plan(
        tiny.model(ARCH),
        find_sources(["single", "changes"], SHAPE),
        make_arms(["gate", "window"], ["1/2", "1/8"]),
        n_items=4,
        load=LOAD | {"gates": tiny.gates(ARCH)},
    )
    return replace(plan, **changes)


def results(plan: Plan, path: Path | None = None, n_jobs: int = 1, stop_after: int | None = None) -> list[Record]:
    """What a run, or its beginning, leaves in its file."""
    tasks, records = prepare_tasks(plan), RecordFile(path, plan.settings())
    for n, record in enumerate(run_units(plan, tasks, units_left(plan, tasks, records), n_jobs), 1):
        records.add(record)
        if n == stop_after:
            break
    return [replace(record, **dict.fromkeys(SPEEDS, 0)) for record in records]


@pytest.fixture(scope="module")
def whole(tiny: TinyFiles) -> list[Record]:
    return results(make_plan(tiny))


def test_every_option_that_eval_has_reaches_its_arms(tiny: TinyFiles) -> None:
    asked = RetentionOptions(gates=tiny.gates(ARCH), buffer=8, recent=3, policy_seed=5, prefill="full", n_ubatch=32)
    request = EvalRequest(EvalOptions(), TaskOptions(), asked, ModelOptions(n_threads=1), ReportFiles())
    load = make_eval_plan(str(tiny.model(ARCH)), request).load
    for table, part in ((asked, EVAL["cache"]), (request.loading, EVAL["loading"])):
        assert {name: load[name] for name in part.names if name != "scope"} == {
            name: getattr(table, name) for name in part.names if name != "scope"
        }


def test_every_arm_answers_every_question(tiny: TinyFiles, whole: list[Record]) -> None:
    arms = ["full", "gate 1/2", "gate 1/8", "window 1/2", "window 1/8"]
    assert [record.arm for record in whole if (record.task, record.item) == ("single", 0)] == arms
    for arm in arms:
        for task in ("single", "changes"):
            answered = [record for record in whole if (record.arm, record.task) == (arm, task)]
            assert sum(len(record.replies) for record in answered) == 4
            assert all(len(record.scores) == len(record.replies) for record in answered)


def test_two_runs_are_identical(tiny: TinyFiles, whole: list[Record]) -> None:
    assert results(make_plan(tiny)) == whole


def test_several_processes_give_the_same_in_the_same_order(
    tiny: TinyFiles, whole: list[Record], tmp_path: Path
) -> None:
    split = results(make_plan(tiny), tmp_path / "r.jsonl", n_jobs=2)
    # the most that an arm took is known of each process alone
    assert [replace(record, bytes_peak=0) for record in split] == [replace(record, bytes_peak=0) for record in whole]


@pytest.mark.parametrize("stop_after", [1, 5, 7])
def test_a_killed_run_goes_on_to_the_same_results(
    tiny: TinyFiles, whole: list[Record], tmp_path: Path, stop_after: int
) -> None:
    path = tmp_path / "r.jsonl"
    results(make_plan(tiny), path, stop_after=stop_after)
    with open(path, "rb+") as file:
        file.truncate(path.stat().st_size - 20)  # killed while it wrote a line
    again = results(make_plan(tiny), path)
    assert [replace(record, bytes_peak=0) for record in again] == [replace(record, bytes_peak=0) for record in whole]
    for arm, task in {(record.arm, record.task) for record in whole}:
        peaks = [
            max(record.bytes_peak for record in records if (record.arm, record.task) == (arm, task))
            for records in (whole, again)
        ]
        assert peaks[0] == peaks[1]


def test_arms_and_tasks_can_be_added_to_a_file(tiny: TinyFiles, whole: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    plan = make_plan(tiny)
    results(replace(plan, sources=plan.sources[:1], arms=plan.arms[:2]), path)
    added = results(plan, path)
    assert sorted(added, key=str) == sorted(whole, key=str)


def test_another_seed_is_another_run(tiny: TinyFiles, whole: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    results(make_plan(tiny), path, stop_after=1)
    with pytest.raises(RetainError, match="another run: seed differ"):
        RecordFile(path, make_plan(tiny, seed=1).settings())
    assert results(make_plan(tiny, seed=1)) != whole


def test_a_budget_that_holds_everything_answers_as_the_full_cache(tiny: TinyFiles) -> None:
    plan = make_plan(tiny, arms=make_arms(["gate", "gate:head", "window", "random"], ["4096"]))
    records = results(plan)
    for record in records:
        full = next(one for one in records if (one.arm, one.task, one.item) == ("full", record.task, record.item))
        assert record.replies == full.replies and record.n_cells == full.n_cells


def test_peaks_are_as_promised(tiny: TinyFiles, whole: list[Record]) -> None:
    room = max(LOAD["buffer"], LOAD["n_ubatch"])
    cell = 2 * TINY_MODELS[ARCH].head_size * 4  # bytes: K and V rows in f32
    streams = whole[0].n_cells // whole[0].n_prompt
    for record in whole:
        if record.arm != "full":
            budgets = [one.n_budget for one in whole if (one.arm, one.task) == (record.arm, record.task)]
            promised = streams * (max(budgets) + room) * cell
            assert record.n_cells * cell <= record.bytes_peak <= promised <= record.bytes_pool
            assert record.n_budget == record.n_prompt // int(record.budget[-1])


def test_questions_do_not_see_each_other(tiny: TinyFiles) -> None:
    llm = load(tiny.model(ARCH), gates=tiny.gates(ARCH), budget=48, buffer=8)
    item = TASKS["single"].item(0, **SHAPE)
    template = ChatTemplate(llm)
    script = write_script(llm, template, item)
    together = ask_all(llm, script, 24, template.stop).texts
    alone = [ask_all(llm, Script(script.shared, [ending]), 24, template.stop).texts[0] for ending in script.endings]
    assert together == alone and len(set(together)) == len(together)


def test_a_script_is_what_a_chat_would_have_read(tiny: TinyFiles) -> None:
    llm = load(tiny.model(ARCH))
    template, item = ChatTemplate(llm), TASKS["changes"].item(0, **SHAPE)
    script = write_script(llm, template, item)
    messages = [*item.messages, {"role": "user", "content": item.questions[0].text}]
    assert script.shared + script.endings[0] == template.first_turn(messages)


def question(text: str, start: str = "") -> BenchmarkQuestion:
    return BenchmarkQuestion(text, ("x",), BestOf(contains), start)


def test_questions_without_a_conversation_share_what_they_begin_with(tiny: TinyFiles) -> None:
    llm = load(tiny.model(ARCH))
    template = ChatTemplate(llm)
    item = BenchmarkItem((question("a long text. who?"), question("a long text. why?", " because")))
    script = write_script(llm, template, item)
    whole = template.first_turn([{"role": "user", "content": "a long text. why?"}])
    assert script.shared + script.endings[1] == whole + template.reply_tokens(" because")
    assert llm.detokenize(script.shared).decode().endswith("a long text. wh")
    one = write_script(llm, template, BenchmarkItem((question("who?"),)))
    assert len(one.endings[0]) == 1  # what is read for its logits
    raw = write_script(llm, template, BenchmarkItem((question("who?"),)), is_chat=False)
    assert raw.shared + raw.endings[0] == llm.tokenize(b"who?")


def test_a_script_that_is_too_long_loses_its_middle() -> None:
    script = Script([1, 2, 3, 4, 5, 6, 7], [[8], [8, 9]])
    assert script.cut(9) == script
    assert script.cut(6) == Script([1, 2, 6, 7], [[8], [8, 9]])
    assert script.cut(5).shared == [1, 2, 7]
    with pytest.raises(RetainError, match="question of 2 tokens does not fit in 2"):
        script.cut(2)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"load": LOAD | {"n_ctx": 128}}, "too long, the context of 128; use shorter ones"),
        (
            {"sources": find_sources(["single"], {"n_tokens": 4000})},
            "too long, the model was trained for a context of 4,096",
        ),
        ({"load": LOAD | {"sinks": 200}}, "less than the 200 cells that --sinks"),
        ({"load": LOAD | {"min_per_head": 200}}, "less than the 200 cells"),
    ],
)
def test_what_does_not_fit(tiny: TinyFiles, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RetainError, match=message):
        prepare_tasks(make_plan(tiny, **changes))


@pytest.mark.parametrize(
    "error", [RetainError("a\nb"), ContextFullError("too long", 7), LibraryError("no library", "run make")]
)
def test_what_goes_wrong_in_another_process_is_told_as_it_is(error: RetainError) -> None:
    found = pickle.loads(pickle.dumps(error))
    assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))


def test_wrong_sources() -> None:
    with pytest.raises(UsageError, match="task 'dance' is not one of single"):
        find_sources(["dance"], {})
    with pytest.raises(UsageError, match="--hops makes no difference to single, lookup"):
        find_sources(["single", "lookup"], {"n_hops": 3})
    with pytest.raises(UsageError, match="items is 0"):
        Plan(Path("x.gguf"), (), (), n_items=0)


def test_a_model_without_a_template_is_asked_in_plain_turns(tiny: TinyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = load(tiny.model(ARCH))
    monkeypatch.delitem(llm.metadata, "tokenizer.chat_template", raising=False)
    script = write_script(llm, ChatTemplate(llm), TASKS["single"].item(0, **SHAPE))
    assert llm.detokenize(script.shared).decode().startswith("User: Read the text")
    assert llm.detokenize(script.endings[0]).decode().endswith("?\nAssistant:")


def test_a_longer_text_is_read_in_the_same_chunks_by_every_arm(tiny: TinyFiles) -> None:
    llm = load(tiny.model(ARCH), policy="window", budget=64)
    tokens = llm.tokenize(text(200).encode())
    reply = ask_all(llm, Script(tokens, [[tokens[-1]]]), 4, ())
    assert reply.n_cells <= 4 * (64 + 128) and len(reply.texts) == 1
