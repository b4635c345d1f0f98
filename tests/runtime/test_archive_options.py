"""What is said of the archive of evicted cells: read, refused, and resolved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import TinyFiles
from retain_local.errors import UsageError
from retain_local.kv_types import kv_type
from retain_local.models.model_file import read_model_file
from retain_local.options.archive import AUTO_BYTES, parse_archive, parse_recall, share_text, size_text
from retain_local.options.retention_options import RetentionOptions, settings_of

MIB = 2**20
F16 = kv_type("f16")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0", 0), (0, 0), ("512MiB", 512 * MIB), ("512 mib", 512 * MIB), ("0.5GiB", 512 * MIB), ("1GB", 10**9),
     (4096, 4096), (np.int64(7), 7), ("7B", 7), ("auto", "auto")],
)  # fmt: skip
def test_sizes(value: object, expected: int) -> None:
    assert parse_archive(value) == expected
    assert parse_archive(size_text(expected)) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [("512", "has no unit; write 512MiB"), ("512 parsecs", "unknown unit 'parsecs'"), ("25%", "is not a size"),
     ("1/4", "is not a size"), ("", "is not a size"), (-1, "out of range"), (2**63, "out of range"), (1.5, "is not a size"),
     (True, "is not a size"), (None, "is not a size"), ("9" * 50 + "MiB", "is not a size")],
)  # fmt: skip
def test_what_is_no_size(value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_archive(value)


@pytest.mark.parametrize(
    ("value", "expected"), [("25%", 0.25), ("1/4", 0.25), ("0.25", 0.25), (0.25, 0.25), (0, 0), ("0", 0), ("90%", 0.9)]
)
def test_shares(value: object, expected: float) -> None:
    assert parse_recall(value) == expected == parse_recall(share_text(expected))


@pytest.mark.parametrize("value", ["91%", "1", 1, -0.1, "1/0", "half", "", float("nan"), True, b"1", None, "25MiB"])
def test_what_is_no_share(value: object) -> None:
    with pytest.raises(UsageError, match="recall .* is not a share of the budget"):
        parse_recall(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recall": "25%"}, "recall 25% needs an archive to recall from; give it a size, as in --archive 512MiB"),
        ({"archive_type": "q8_0"}, "archive-type q8_0 is the type of an archive, and there is none; give it a size"),
        ({"archive_file": "a"}, "archive-file names a file, and there is no archive"),
        (
            {"archive": "1MiB", "archive_file": "absent/a"},
            "archive-file absent/a cannot be made: there is no folder absent",
        ),
        ({"archive": "1MiB", "archive_file": "."}, r"archive-file \. is a folder"),
        ({"archive": "1MiB", "archive_file": 3}, "archive-file 3 is no path"),
        ({"archive": "1MiB", "archive_type": "q5_0"}, "archive-type 'q5_0' is not one of auto, q4_0, q8_0"),
    ],
)
def test_what_does_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RetentionOptions(**options)


def resolve(path: Path, **options: Any) -> RetentionOptions:
    return RetentionOptions(**options).resolve(read_model_file(path), n_ctx=1024, type_k=F16, type_v=F16)


def test_an_archive_that_nobody_gave_a_size(tiny: TinyFiles) -> None:
    path = tiny.model("llama")
    given = resolve(path, budget=128, archive="auto")
    assert (given.archive, given.recall) == (AUTO_BYTES, 0.25)
    assert resolve(path, budget=128, archive="auto", recall="1/2").recall == 0.5
    assert resolve(path, budget=1024, archive="auto").archive == AUTO_BYTES  # for when the context becomes longer
    # nothing to recall, or nowhere to keep it
    file = read_model_file(path)
    auto = RetentionOptions(archive="auto", budget=128)
    for options, more in (
        (replace(auto, budget=3, sinks=0), {}),
        (replace(auto, policy="none"), {}),
        (replace(auto, recall=0), {}),
        (auto, {"on_host": False}),
        (auto, {"model": replace(file, head_k=80)}),
        (auto, {"model": replace(file, n_head_kv=(1,) * 10**6)}),
    ):
        found = options.resolve(**{"model": file, "n_ctx": 1024, "type_k": F16, "type_v": F16} | more)
        assert (found.archive, found.recall) == (0, 0), (options, more)
        assert found.residents(found.budget, 1024) == found.budget
        assert RetentionOptions(**vars(found)) == found, "what is resolved can be given again"
    # one that is asked for is tried, so that the reason against it is said
    for asked in ({"recall": "1/2"}, {"archive_type": "q4_0"}):
        found = replace(auto, **asked).resolve(file, n_ctx=1024, type_k=F16, type_v=F16, on_host=False)
        assert found.archive == AUTO_BYTES, asked


@pytest.mark.parametrize(("heads", "expected"), [((64, 64), "q8_0"), ((128, 128), "q4_0"), ((256, 64), "q8_0")])
def test_small_heads_are_archived_in_8_bits(tiny: TinyFiles, heads: tuple[int, int], expected: str) -> None:
    file = replace(read_model_file(tiny.model("llama")), head_k=heads[0], head_v=heads[1])
    sizes = {"n_ctx": 1024, "type_k": F16, "type_v": F16}
    assert RetentionOptions(archive="1MiB").resolve(file, **sizes).archive_type == expected
    assert RetentionOptions(archive="1MiB", archive_type="q4_0").resolve(file, **sizes).archive_type == "q4_0"


def test_an_archive_recalls_a_quarter_unless_told_otherwise(tiny: TinyFiles) -> None:
    assert resolve(tiny.model("llama"), budget=128).recall == 0
    found = resolve(tiny.model("llama"), budget=128, archive="1MiB")
    assert (found.recall, found.archive, found.residents(128, 1024)) == (0.25, MIB, 96)
    assert RetentionOptions(**vars(found)) == found, "what is resolved can be given again"
    assert found.residents(1024, 1024) == 1024, "nothing is evicted, so nothing is recalled"


def test_the_ubatch_follows_from_what_stays(tiny: TinyFiles) -> None:
    assert resolve(tiny.model("llama"), budget=256).n_ubatch == 64
    assert resolve(tiny.model("llama"), budget=256, archive="1MiB", recall=0.5).n_ubatch == 32


def test_what_is_always_kept_must_fit_what_stays(tiny: TinyFiles) -> None:
    resolve(tiny.model("llama"), budget=64, sinks=40)
    with pytest.raises(UsageError, match="together are more than the 32 cells of the budget that are not recalled"):
        resolve(tiny.model("llama"), budget=64, sinks=40, archive="1MiB", recall="50%")
    with pytest.raises(UsageError, match=r"min-per-head \(40\) is more than the 32 cells"):
        resolve(tiny.model("llama"), budget=64, min_per_head=40, archive="1MiB", recall="50%")


def test_recall_is_among_the_settings_that_decide_what_is_predicted() -> None:
    with_archive = settings_of(RetentionOptions(archive="1MiB", archive_type="q8_0"), F16, F16)
    assert settings_of(RetentionOptions(), F16, F16) == {
        name: value for name, value in with_archive.items() if name not in ("recall", "archive", "archive_type")
    }
    assert (with_archive["recall"], with_archive["archive"], with_archive["archive_type"]) == ("25%", "1MiB", "q8_0")
