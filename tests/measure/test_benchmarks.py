"""Public benchmarks: their files, prompts and metrics."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path

import pytest

from conftest import TinyFiles
from retain_local.errors import RetainError, UsageError
from retain_local.evaluation.benchmarks import load_benchmark, metrics, registry
from support.command_line import run
from support.hub_server import Hub, serving

SAMPLES = Path(__file__).parents[1] / "support" / "benchmarks"


def load(name: str, file: str):
    return load_benchmark(f"{name}:{SAMPLES / file}")


def score(benchmark, *replies: str) -> list[float]:
    questions = [question for item in benchmark.loaded for question in item.questions]
    return [question.score(reply) for question, reply in zip(questions, replies, strict=True)]


@pytest.mark.parametrize(
    "name, file, right, wrong",
    [
        ("longbench", "longbench_hotpotqa.jsonl", ["Sull.", "its bakers"], ["Mora", "mills"]),
        ("longbench", "longbench_trec.jsonl", ["Person\nQuestion: Distance"], ["Distance"]),
        ("longbench", "longbench_multifieldqa_zh.jsonl", ["面包师。"], ["河边"]),
        ("longbench", "longbench_lcc.jsonl", ["    return width * height\n"], ["# nothing"]),
        ("longbench", "longbench_passage_retrieval_en.jsonl", ["Paragraph 2"], ["Paragraph 1"]),
        (
            "longbench_v2",
            "longbench_v2.json",
            ["The correct answer is (B).", "**The correct answer is A**"],
            ["B", "(A)"],
        ),
        ("scbench", "scbench_kv.jsonl", ['The value is "beef"', "c0de"], ["c0de", "beef"]),
        ("scbench", "scbench_choice_eng.jsonl", ["B. The miller"], ["A"]),
        ("scbench", "scbench_mf.jsonl", ["7", "It is 93.5"], ["12", "the largest"]),
        ("scbench", "scbench_vt.jsonl", ["abc and DEF"], ["XYZ"]),
        ("ruler/niah_single_1", "ruler_niah_single_1.jsonl", ["4417."], ["4418"]),
        ("ruler", "ruler_qa_1.jsonl", ["otto lind"], ["Ida"]),
        (
            "gsm8k",
            "gsm8k.jsonl",
            ["7 baskets with 8.\n#### 56", "so 3,600 bricks", "$6.00"],
            ["#### 7", "3 trips", "$12"],
        ),
    ],
)
def test_a_right_reply_scores_1_and_a_wrong_one_0(name: str, file: str, right: list[str], wrong: list[str]) -> None:
    benchmark = load(name, file)
    assert score(benchmark, *right) == pytest.approx([1] * len(right))
    assert score(benchmark, *wrong) == [0] * len(wrong)


def test_prompts_are_the_benchmarks_own() -> None:
    hotpot = load("longbench", "longbench_hotpotqa.jsonl")
    assert hotpot.loaded[0].questions[0].text.startswith("Answer the question based on the given passages. Only give")
    assert hotpot.loaded[1].questions[0].text.endswith("was born known for?\nAnswer:")
    assert (hotpot.name, hotpot.max_tokens, hotpot.is_chat) == ("longbench/hotpotqa", 32, True)
    v2 = load("longbench_v2", "longbench_v2.json").loaded[0].questions[0].text
    assert "\n(B) The baker\n" in v2 and v2.endswith('"The correct answer is (insert answer here)".')
    numbers = load("scbench", "scbench_mf.jsonl").loaded[0].questions
    assert numbers[1].text == (
        "What is the largest number of the list?\n\n[12, 7, 93, 41]\n\nThe largest number of the list is:"
    )


def test_few_shot_and_code_prompts_are_no_chat() -> None:
    assert not load("longbench", "longbench_trec.jsonl").is_chat
    assert not load("longbench", "longbench_lcc.jsonl").is_chat
    assert not load("ruler/niah_single_1", "ruler_niah_single_1.jsonl").is_chat


def test_an_answer_prefix_begins_the_reply() -> None:
    benchmark = load("ruler/qa_1", "ruler_qa_1.jsonl")
    assert benchmark.is_chat and benchmark.loaded[0].questions[0].reply_start == " Answer:"


def test_items_are_the_first_so_many_questions() -> None:
    benchmark = load("scbench", "scbench_kv.jsonl")
    assert [len(item.questions) for item in benchmark.items(1, seed=0)] == [1]
    assert [len(item.questions) for item in benchmark.items(100, seed=5)] == [2]


def test_one_length_of_longbench_v2() -> None:
    assert len(load("longbench_v2/medium", "longbench_v2.json").loaded) == 1


def test_overlap_metrics() -> None:
    assert metrics.f1("The old, red mill", "a red mill") == pytest.approx(2 * 2 / (3 + 2))
    assert metrics.f1_characters("面包！", "面包师") == pytest.approx(0.8)
    assert metrics.rouge_l("a b c d", "a c d e") == pytest.approx(0.75, abs=1e-6)
    assert metrics.rouge_l("...", "a b") == 0
    assert metrics.edit_similarity("```\n# comment\nreturn a", "return b") == pytest.approx(0.88)
    assert metrics.edit_similarity("", "return b") == 0
    assert metrics.number_share("3 or 4 or 3", "Paragraph 3") == pytest.approx(2 / 3)
    assert metrics.first_number("9" * 5000, "9") == 0  # no float holds it
    assert metrics.first_number("It is 7.9.", "7") == metrics.first_number("7.50", "7.5") == 1


def test_classification_shares_between_the_classes_named() -> None:
    metric = metrics.Classification(["Person", "Personal property", "Distance"])
    assert metric("Person or Distance", ("Person",)) == 0.5
    assert metric("Personal property", ("Personal property",)) == 1  # "Person" is part of it and does not count


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("gsm8k", "", "is empty"),
        ("gsm8k", "{", "line 1 is not JSON"),
        ("gsm8k", '{"a": ' + "[" * 100_000, "line 1 is not JSON"),
        ("longbench", "[]", "is empty"),
        ("ruler/qa", " [\n]\n", "is empty"),
        ("gsm8k", '{"question": "?", "answer": "1 #### 1"}\n[1]', "line 2 is not an object"),
        ("gsm8k", '{"question": "?"}', "line 1 has no field 'answer'"),
        ("gsm8k", '{"question": "?", "answer": "none"}', "line 1: the answer has no number"),
        ("gsm8k", '{"question": [], "answer": "#### 1"}', "line 1: field 'question' is not a text"),
        ("longbench", '{"dataset": "dance"}', "LongBench has no task 'dance'"),
        ("longbench/lcc", '{"dataset": "trec"}', "is of the task 'trec', not 'lcc'"),
        ("longbench/lcc", '{"context": "", "input": "", "answers": []}', "field 'answers' is not a list of texts"),
        ("longbench/dance", '{"dataset": "dance"}', "LongBench has no task 'dance'"),
        ("longbench_v2", "[1]", "entry 1 is not an object"),
        ("longbench_v2/huge", '[{"length": "short"}]', "no texts of length 'huge'"),
        ("scbench/kv", '{"context": "", "multi_turns": {}}', "field 'multi_turns' is not a list of objects"),
        ("scbench/kv", '{"context": "", "multi_turns": [{}]}', "multi_turns[0] has no field 'answer'"),
        ("scbench/dance", "{}", "'dance' is no task of SCBench"),
        (
            "scbench/mf",
            '{"context": "", "multi_turns": [{"input": "", "answer": "many"}]}',
            "line 1: multi_turns[0]: the answer is no number",
        ),
        ("ruler", "{}", "does not tell which task of RULER"),
    ],
)
def test_a_file_of_another_format_is_one_clear_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / "file.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RetainError) as error:
        load_benchmark(f"{name}:{path}")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_characters_that_end_lines_elsewhere_may_stand_in_a_line(tmp_path: Path) -> None:
    """As `json.dumps(..., ensure_ascii=False)` writes them; and the mark of UTF-8 before the first line."""
    path = tmp_path / "gsm8k.jsonl"
    lines = [{"question": f"a{end}b", "answer": "#### 1"} for end in "\u2028\u2029\x85"]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\r\n" for line in lines), encoding="utf-8-sig")
    questions = [item.questions[0].text.partition("\n\n")[0] for item in load_benchmark(f"gsm8k:{path}").loaded]
    assert questions == ["a\u2028b", "a\u2029b", "a\x85b"]


def test_an_answer_that_is_no_option(tmp_path: Path) -> None:
    line = json.loads((SAMPLES / "scbench_choice_eng.jsonl").read_text())
    line["multi_turns"][0]["answer"] = "The nurse"
    path = tmp_path / "scbench_choice_eng.jsonl"
    path.write_text(json.dumps(line))
    with pytest.raises(RetainError, match="not one of four options"):
        load_benchmark(f"scbench:{path}")


@pytest.mark.parametrize(
    "name, message",
    [
        ("gsm8k", "gsm8k is not fetched; name its file"),
        ("longbench", "which task of longbench?"),
        ("dance:x", "benchmark 'dance' is not one of"),
    ],
)
def test_names_that_say_too_little(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        load_benchmark(name)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(RetainError, match="no such file"):
        load_benchmark(f"gsm8k:{tmp_path / 'absent.jsonl'}")
    with pytest.raises(RetainError, match="cannot be read"):
        load_benchmark(f"gsm8k:{tmp_path}")


def archive(name: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as opened:
        opened.write(SAMPLES / "longbench_hotpotqa.jsonl", name)
    return data.getvalue()


def test_a_task_from_the_hub(tmp_path: Path, tiny: TinyFiles) -> None:
    """Fetched and unpacked once; then it is there without a connection."""
    ask = ["eval", tiny.model("llama"), "--policies", "window", "--budgets", "256", "--items", "1", "--tasks"]
    repos = {
        "datasets/THUDM/LongBench": {"data.zip": archive("data/hotpotqa.jsonl")},
        "datasets/microsoft/SCBench": {"data/scbench_kv.jsonl": (SAMPLES / "scbench_kv.jsonl").read_bytes()},
    }
    with serving(Hub(repos)) as hub:
        online = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        done = run(tmp_path, *ask, "longbench/hotpotqa,scbench/kv", **online)
        assert done.returncode == 0 and "longbench/hotpotqa" in done.stdout, done.stderr
        absent = run(tmp_path, *ask, "longbench/qasper", **online)
        assert absent.returncode == 1 and "has no file data/qasper.jsonl" in absent.stderr
        unknown = run(tmp_path, *ask, "scbench/dance", **online)
        assert unknown.returncode == 1 and "has no file data/scbench_dance.jsonl" in unknown.stderr
    again = run(tmp_path, *ask, "longbench/hotpotqa")
    assert again.returncode == 0, again.stderr
    nowhere = run(tmp_path, *ask, "longbench_v2")
    assert nowhere.returncode == 1 and nowhere.stderr.count("\n") == 1 and "HF_HUB_OFFLINE" in nowhere.stderr


def test_a_file_whose_unpacking_was_stopped_is_unpacked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.zip"
    path.write_bytes(archive("data/hotpotqa.jsonl"))
    copy = shutil.copyfileobj

    def stopped(source, target, *more) -> None:
        target.write(source.read(10))
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfileobj", stopped)
    with pytest.raises(KeyboardInterrupt):
        registry._unpacked(path, "data/hotpotqa.jsonl")
    monkeypatch.setattr(shutil, "copyfileobj", copy)
    unpacked = registry._unpacked(path, "data/hotpotqa.jsonl")
    assert unpacked.read_bytes() == (SAMPLES / "longbench_hotpotqa.jsonl").read_bytes()


@pytest.mark.parametrize(
    "name, file, n_items",
    [
        ("gsm8k", "gsm8k.jsonl", 3),
        ("ruler", "4096_niah_multikey_3.jsonl", 1),
        ("longbench", "longbench_multi_news.jsonl", 2),
        ("longbench", "longbench_multifieldqa_zh.jsonl", 1),
        ("longbench", "longbench_passage_retrieval_zh.jsonl", 1),
    ],
)
def test_every_reference_is_a_right_reply(name: str, file: str, n_items: int) -> None:
    """Samples are lines of our own, with the fields, marks and file names of the published files."""
    benchmark = load(name, file)
    assert len(benchmark.loaded) == n_items
    for item in benchmark.loaded:
        (question,) = item.questions
        assert question.score(question.references[0]) == pytest.approx(1, abs=1e-3)
        assert question.score("nothing of the kind") < 0.1
