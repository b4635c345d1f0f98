"""The stored recommendation, and `budget="auto"`, which uses it."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import TinyFiles
from retain_local.errors import RetainError
from retain_local.kv_types import kv_type
from retain_local.models.model_file import file_fingerprint, read_model_file
from retain_local.options.archive import AUTO_BYTES
from retain_local.options.recommendation import Recommendation, Shelf
from retain_local.options.retention_options import RetentionOptions, settings_of

F16 = kv_type("f16")
WINDOW = RetentionOptions(gates=None, policy="window")
FOUND = Recommendation(
    cells=300,
    budget="1/4",
    bound="mean KL at most 0.05",
    kl_mean=0.0123,
    agreement=0.975,
    texts=2,
    longest=1200,
    settings=settings_of(WINDOW, F16, F16),
    model="m.gguf",
)


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def model(tiny: TinyFiles, tmp_path: Path) -> Path:
    """A model with gates beside it."""
    shutil.copy(tiny.gates("llama"), tmp_path / "m.gates.gguf")
    return Path(shutil.copy(tiny.model("llama"), tmp_path / "m.gguf"))


def resolve(model: Path, n_ctx: int = 1024, **options: Any) -> RetentionOptions:
    return RetentionOptions(**{"budget": "auto", "n_ubatch": 64, **options}).resolve(
        read_model_file(model), n_ctx=n_ctx, type_k=F16, type_v=F16
    )


def shelf(model: Path, **options: Any) -> Shelf:
    resolved = resolve(model, **{"budget": 64, **options})
    return Shelf.of(read_model_file(model), resolved)


def test_what_was_put_is_found(model: Path) -> None:
    place = shelf(model)
    assert place.find() is None and not place.clear()
    place.put(FOUND)
    assert place.find() == FOUND
    place.put(replace(FOUND, cells=99))
    assert shelf(model).find().cells == 99
    assert place.clear() and place.find() is None
    assert list(place.path.parent.iterdir()) == []


def test_each_model_policy_scope_and_gates_has_its_own(model: Path, tiny: TinyFiles) -> None:
    other_gates = tiny.gates("llama", variant="rg", tied=False)
    places = [
        shelf(model),
        shelf(model, scope="head"),
        shelf(model, policy="window"),
        shelf(model, gates=other_gates),
        shelf(tiny.model("qwen3"), policy="window"),
    ]
    assert len({place.path for place in places}) == len(places)


def test_names_and_places_of_files_do_not_matter(model: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    moved = Path(shutil.copy(model, tmp_path / "elsewhere" / "other.gguf"))
    gates = Path(shutil.copy(tmp_path / "m.gates.gguf", tmp_path / "elsewhere" / "g.gguf"))
    assert shelf(moved, gates=gates, policy="gate") == shelf(model)


def test_gates_that_a_policy_does_not_read_do_not_matter(model: Path, tiny: TinyFiles) -> None:
    assert shelf(model, policy="window", gates=tiny.gates("llama")) == shelf(model, policy="window")


def test_auto_takes_it_and_says_so(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    shelf(model).put(FOUND)
    logging.getLogger("retain_local").propagate = True
    with caplog.at_level(logging.INFO, "retain_local"):
        assert resolve(model, budget="auto").budget == 300
    (line,) = caplog.messages
    assert line == (
        "budget 300, as an audit recommended for mean KL at most 0.05: mean KL 0.0123, agreement 97.5% on texts of up"
        " to 1,200 tokens"
    )


def test_other_settings_are_pointed_out(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    shelf(model).put(FOUND)
    logging.getLogger("retain_local").propagate = True
    with caplog.at_level(logging.INFO, "retain_local"):
        resolve(model, sinks=0, recent=8)
    assert caplog.messages[0].endswith("; measured with sinks 4, recent 0")


def test_a_recommendation_is_for_the_archive_that_there_is(model: Path) -> None:
    """An archive that nobody asks for is not made beside a recommended budget, so that is not one for recall."""
    shelf(model).put(FOUND)
    shelf(model, archive="1MiB").put(replace(FOUND, cells=100))
    found = resolve(model, archive="auto")
    assert (found.budget, found.archive, found.recall) == (300, 0, 0)
    found = resolve(model, archive="auto", recall=0.25)
    assert (found.budget, found.archive, found.recall) == (100, AUTO_BYTES, 0.25)


def test_a_context_that_is_shorter_bounds_it(model: Path) -> None:
    shelf(model).put(FOUND)
    assert resolve(model, n_ctx=200).budget == 200


def test_auto_without_a_recommendation(model: Path) -> None:
    shelf(model, scope="head").put(FOUND)
    with pytest.raises(
        RetainError, match="no audit has recommended a budget .* 'gate' and the scope 'global': run"
    ) as error:
        resolve(model)
    assert f"retain-local audit {model} --text FILE" in str(error.value) and "\n" not in str(error.value)
    assert resolve(model, scope="head").budget == 300


def test_auto_of_a_policy_that_never_evicts_is_the_context(model: Path) -> None:
    assert resolve(model, policy="none", n_ctx=777).budget == 777


@pytest.mark.parametrize(
    "contents",
    [
        "",
        "{",
        "[]",
        "{}",
        json.dumps(vars(FOUND) | {"cells": 0}),
        json.dumps(vars(FOUND) | {"cells": "300"}),
        json.dumps(vars(FOUND) | {"settings": 3}),
        json.dumps(vars(FOUND) | {"kl_mean": "little"}),
        "[" * 100_000,
        json.dumps(vars(FOUND) | {"more": 1}),
        b"\xff\xfe",
    ],
)
def test_a_damaged_file(model: Path, contents: str | bytes) -> None:
    place = shelf(model)
    place.put(FOUND)
    place.path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    with pytest.raises(RetainError, match="is damaged; run `retain-local audit` again"):
        resolve(model)


def test_a_data_folder_that_cannot_be_made(model: Path, data_folder: Path) -> None:
    data_folder.write_text("in the way")
    with pytest.raises(RetainError, match="the folder .* cannot be made"):
        shelf(model)


def test_fingerprints(tmp_path: Path) -> None:
    big = bytes(range(256)) * 20_000
    (tmp_path / "a").write_bytes(big)
    (tmp_path / "b").write_bytes(big)
    assert file_fingerprint(tmp_path / "a") == file_fingerprint(tmp_path / "b")
    for at in (0, len(big) - 1):
        (tmp_path / "b").write_bytes(big[:at] + b"x" + big[at + 1 :])
        assert file_fingerprint(tmp_path / "a") != file_fingerprint(tmp_path / "b")
    (tmp_path / "b").write_bytes(big + big[:256])
    assert file_fingerprint(tmp_path / "a") != file_fingerprint(tmp_path / "b")
    with pytest.raises(RetainError, match="absent cannot be read"):
        file_fingerprint(tmp_path / "absent")
