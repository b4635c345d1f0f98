"""Results on disk: added to as they come, gone on with after a kill, refused when they are of another run."""

from __future__ import annotations

from pathlib import Path

import pytest

from retain_local.errors import RetainError
from retain_local.evaluation.merge import read_results
from retain_local.evaluation.points import points_by_task, points_together
from retain_local.evaluation.records import Record, RecordFile, read_records

SETTINGS = {"model": "tiny.gguf", "seed": 0}


def record(arm: str = "full", task: str = "single", item: int = 0, scores: tuple[float, ...] = (1.0, 0.0)) -> Record:
    method, _, budget = arm.partition(" ")
    return Record(
        arm, method, budget, task, item, list(scores), ["ja", "nein"], n_prompt=100, n_budget=50, n_cells=200,
        n_written=10, bytes_peak=1000 + item, bytes_pool=2000, read_seconds=0.5, write_seconds=0.25,
    )  # fmt: skip


def write(path: Path, *records: Record) -> Path:
    file = RecordFile(path, SETTINGS)
    for one in records:
        file.add(one)
    return path


def test_records_come_back(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", record(), record("gate 1/8", item=3))
    again = RecordFile(path, SETTINGS)
    assert list(again) == [record(), record("gate 1/8", item=3)]
    assert ("gate 1/8", "single", 3) in again and ("gate 1/8", "single", 0) not in again


def test_half_a_line_is_dropped_and_written_again(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", record(item=0), record(item=1))
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    file = RecordFile(path, SETTINGS)
    assert [one.item for one in file] == [0]
    file.add(record(item=1))
    assert path.read_bytes() == whole


def test_without_a_path_nothing_is_written(tmp_path: Path) -> None:
    file = RecordFile(None, SETTINGS)
    file.add(record())
    assert len(file) == 1 and not list(tmp_path.iterdir())


def test_results_of_another_run_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", record())
    before = path.read_bytes()
    with pytest.raises(RetainError, match="another run: seed, threads differ"):
        RecordFile(path, {"model": "tiny.gguf", "seed": 1, "threads": 2})
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["hello\n", "[]\n", '{"format": "another 1", "settings": {}}\n', "\x00\xff\n"])
def test_what_is_no_file_of_results_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(RetainError, match="not a file of results"):
        RecordFile(path, SETTINGS)
    assert path.read_text(encoding="latin-1") == text


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", record())
    with open(path, "a") as file:
        file.write('{"arm": "full"}\n')
    with pytest.raises(RetainError, match="line 3 is damaged"):
        read_records(path)


def test_files_that_cannot_be_written_or_read(tmp_path: Path) -> None:
    with pytest.raises(RetainError, match="cannot be written: No such file or directory"):
        RecordFile(tmp_path / "absent" / "r.jsonl", SETTINGS)
    with pytest.raises(RetainError, match="cannot be read: No such file or directory"):
        read_records(tmp_path / "absent.jsonl")


def test_points_are_means_over_questions_and_differ_from_the_full_cache() -> None:
    results = {
        "": [record(), record(item=1, scores=(1, 1)), record("gate 1/8", scores=(0, 0)), record("gate 1/8", item=1)]
    }
    full, gate = points_by_task(results)["single"]
    assert (full.accuracy[0], full.difference, full.is_full, full.n_questions) == (0.75, None, True, 4)
    assert gate.accuracy[0] == 0.25 and gate.difference[0] == -0.5
    assert gate.bytes_peak == 1001 and gate.read_rate == 200 and gate.write_rate == 40


def test_a_difference_is_of_the_questions_that_both_answered() -> None:
    results = {"": [record(scores=(1, 1)), record(item=1, scores=(0, 0)), record("gate 1/8", scores=(1, 0))]}
    assert points_by_task(results)["single"][1].difference[0] == -0.5


def test_all_tasks_are_those_that_every_arm_has() -> None:
    results = {"": [record(), record(task="hops2", scores=(1, 1)), record("gate 1/8", scores=(1, 1))]}
    tasks, (full, gate) = points_together(results)
    assert tasks == ["single"] and full.accuracy[0] == 0.5 and gate.accuracy[0] == 1


def test_files_are_told_apart_by_labels(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", record(), record("gate 1/8"))
    second = write(tmp_path / "b.jsonl", record(), record("gate 1/8", scores=(0, 0)))
    points = points_by_task(read_results([str(first), f"untied={second}"]))["single"]
    assert [point.method for point in points] == ["full", "gate", "gate (untied)"]  # the same full cache once
    assert points[2].difference[0] == -0.5
    with pytest.raises(RetainError, match="holds gate 1/8 of task single once more"):
        read_results([str(first), str(second)])


def test_a_full_cache_that_answered_otherwise_is_shown_and_compared_with_its_own_file(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", record())
    second = write(tmp_path / "b.jsonl", record(scores=(0, 0)), record("gate 1/8", scores=(1, 0)))
    points = points_by_task(read_results([str(first), f"other={second}"]))["single"]
    assert [point.method for point in points] == ["full", "full (other)", "gate (other)"]
    assert points[2].difference[0] == 0.5


def test_parts_of_one_run_go_together(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", record(), record("gate 1/8"))
    second = write(tmp_path / "b.jsonl", record(), record("window 1/8"))
    assert [one.arm for one in read_results([str(first), str(second)])[""]] == ["full", "gate 1/8", "window 1/8"]
