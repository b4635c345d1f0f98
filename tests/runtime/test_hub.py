"""Models from the Hub: which file is meant, and downloads that go on where they stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import TinyFiles
from retain_local.commands.model_name import find_model
from retain_local.errors import RetainError
from retain_local.models.download import check_file_name
from retain_local.models.hub import choose_file
from support.command_line import FAST, run
from support.hub_server import Hub, serving

MODEL = os.urandom(25_000_000)
CHUNK = 10 * 1024 * 1024  # what the client writes at once
GATES = os.urandom(10_000)
FILES = {"README.md": b"hello", "tiny-Q4_K_M.gguf": MODEL, "tiny-Q4_K_M.gates.gguf": GATES, "mmproj-F16.gguf": b"eye"}

FETCH = """
import sys
import tempfile
from retain_local.models.hub import fetch_model
from retain_local.errors import RetainError
try:
    found = fetch_model(sys.argv[1], sys.argv[2] or None, sys.argv[3] if len(sys.argv) > 3 else None)
    print(found.path, found.gates)
except RetainError as error:
    sys.exit(f"refused: {error}")
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub({"ann/tiny": dict(FILES), "ann/empty": {"README.md": b""}}, gated={"ann/secret"})) as hub:
        yield hub


def fetch(hub: Hub, home: Path, repo: str = "ann/tiny", choice: str = "", **more: str):
    """Fetch in a process of its own: where the Hub is is read once, when its client is imported."""
    environment = {
        **os.environ,
        "HF_HOME": str(home),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DOWNLOAD_TIMEOUT": "5",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **more,
    }
    environment.pop("HF_TOKEN", None)
    return subprocess.run(
        [sys.executable, "-c", FETCH, repo, choice],
        capture_output=True,
        text=True,
        cwd=tempfile.gettempdir(),  # not the source tree, which "python -c" would import
        env=environment,
        timeout=120,
    )


def partials(home: Path) -> list[Path]:
    return sorted(path for path in home.rglob("*.partial") if path.is_file())


def test_a_model_and_its_gates(hub: Hub, tmp_path: Path) -> None:
    done = fetch(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    path, gates = map(Path, done.stdout.split())
    assert path.name == "tiny-Q4_K_M.gguf" and path.read_bytes() == MODEL
    assert gates == path.with_name("tiny-Q4_K_M.gates.gguf") and gates.read_bytes() == GATES
    assert partials(tmp_path) == []
    # and not again
    assert fetch(hub, tmp_path).stdout == done.stdout
    assert [name for name, _ in hub.downloads] == ["tiny-Q4_K_M.gguf", "tiny-Q4_K_M.gates.gguf"]


def test_an_interrupted_download_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.break_after = 22_000_000
    done = fetch(hub, tmp_path)
    assert done.returncode == 1 and "run the same command to resume it" in done.stderr
    (partial,) = partials(tmp_path)
    assert partial.read_bytes() == MODEL[: 2 * CHUNK]
    assert not list(tmp_path.rglob("*.gguf"))  # nothing takes it for the model

    hub.break_after, hub.downloads = None, []
    done = fetch(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert hub.downloads[0] == ("tiny-Q4_K_M.gguf", 2 * CHUNK)
    assert Path(done.stdout.split()[0]).read_bytes() == MODEL


def test_a_file_that_changed_is_fetched_from_its_start(hub: Hub, tmp_path: Path) -> None:
    hub.break_after = 12_000_000
    fetch(hub, tmp_path)
    newer = os.urandom(2_000_000)
    hub.repos["ann/tiny"]["tiny-Q4_K_M.gguf"] = newer
    hub.break_after, hub.downloads = None, []
    done = fetch(hub, tmp_path)
    assert hub.downloads[0] == ("tiny-Q4_K_M.gguf", 0)
    assert Path(done.stdout.split()[0]).read_bytes() == newer


def test_a_damaged_download_is_thrown_away(hub: Hub, tmp_path: Path) -> None:
    hub.lie = True
    done = fetch(hub, tmp_path)
    assert done.returncode == 1 and "damaged on its way" in done.stderr
    assert partials(tmp_path) == [] and not list(tmp_path.rglob("*.gguf"))
    hub.lie = False
    assert fetch(hub, tmp_path).returncode == 0


def test_split_models_come_whole(hub: Hub, tmp_path: Path) -> None:
    parts = {f"big-{i:05d}-of-00003.gguf": os.urandom(1000) for i in (1, 2, 3)}
    hub.repos["ann/big"] = parts
    done = fetch(hub, tmp_path, "ann/big")
    path = Path(done.stdout.split()[0])
    assert path.name == "big-00001-of-00003.gguf"
    assert {name: path.with_name(name).read_bytes() for name in parts} == parts


@pytest.mark.parametrize(
    "repo, choice, message",
    [
        ("ann/absent", "", "neither a file here nor a repository on http://127.0.0.1"),
        ("ann/secret", "", "is gated"),
        ("ann/empty", "", "has no GGUF model"),
        ("ann/tiny", "Q8_0", "ann/tiny has no model 'Q8_0'; it has Q4_K_M"),
        ("ann/tiny", "absent.gguf", "has no model 'absent.gguf'"),
        ("a b/c", "", "nor the name of a repository"),
    ],
)
def test_what_cannot_be_fetched(hub: Hub, tmp_path: Path, repo: str, choice: str, message: str) -> None:
    done = fetch(hub, tmp_path, repo, choice)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("refused: ") and done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr


def test_without_a_connection(hub: Hub, tmp_path: Path) -> None:
    fetched = fetch(hub, tmp_path)
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    for offline in (nowhere, {"HF_HUB_OFFLINE": "1"}):
        done = fetch(hub, tmp_path, **offline)
        assert done.stdout == fetched.stdout, done.stderr
        assert "using the copy of ann/tiny on this machine" in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        done = fetch(hub, tmp_path / "elsewhere", **offline)
        assert done.returncode == 1 and "no file of it is on this machine" in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr


def test_the_command_line_takes_a_name(hub: Hub, tmp_path: Path, tiny: TinyFiles) -> None:
    hub.repos["ann/real"] = {
        "m-F32.gguf": tiny.model("llama").read_bytes(),
        "m-F32.gates.gguf": tiny.gates("llama").read_bytes(),
        "m-F16.gguf": b"another",
    }
    online = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    done = run(tmp_path, "run", "ann/real", "-p", "a", **online)
    assert done.returncode == 1
    assert "choose with ann/real:NAME, where NAME is one of F16, F32" in done.stderr
    done = run(tmp_path, "run", "ann/real:f32", "-p", "abc", "--max-tokens", "5", "--temp", 0, *FAST, **online)
    assert done.returncode == 0, done.stderr
    assert "policy 'gate'" in done.stderr and len(done.stdout) == 6
    for name in ("ann/real/m-F32.gguf", f"{hub.url}/ann/real/blob/main/m-F32.gguf", "hf.co/ann/real:F32"):
        assert (
            run(tmp_path, "run", name, "-p", "abc", "--max-tokens", "5", "--temp", 0, *FAST, **online).stdout
            == done.stdout
        )
    address = f"{hub.url}/ann/real/resolve/v2/m-F32.gguf?download=true"
    assert "no such branch, tag or commit" in run(tmp_path, "run", address, "-p", "abc", **online).stderr


CHOICES = [
    "a/m-Q4_K_M.gguf",
    "a/m-Q8_0.gguf",
    "a/m-IQ4_XS.gguf",
    "b/m-BF16-00001-of-00002.gguf",
    "b/m-BF16-00002-of-00002.gguf",
]


@pytest.mark.parametrize(
    "choice, file",
    [
        ("Q8_0", CHOICES[1]),
        ("q8_0", CHOICES[1]),
        ("IQ4_XS", CHOICES[2]),
        ("bf16", CHOICES[3]),
        ("m-Q8_0.gguf", CHOICES[1]),
        ("a/m-Q8_0.gguf", CHOICES[1]),
        ("m-BF16-00001-of-00002.gguf", CHOICES[3]),
    ],
)
def test_choices(choice: str, file: str) -> None:
    assert choose_file("r", CHOICES, choice) == file


def test_a_choice_must_be_one() -> None:
    with pytest.raises(RetainError, match="one of Q4_K_M, Q8_0, IQ4_XS, BF16|one of IQ4_XS, Q4_K_M, Q8_0, BF16"):
        choose_file("r", CHOICES, None)
    with pytest.raises(RetainError, match="has no model 'Q4'"):
        choose_file("r", CHOICES, "Q4")


def test_files_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "tiny").write_bytes(b"x")
    for name in ("ann/tiny", "models/absent.gguf", "/absent/path", "absent", "a/b/c"):
        assert find_model(name) == (Path(name), None)


def files_outside(home: Path) -> list[Path]:
    """What a fetch made anywhere but in the folder of its cache."""
    return [path for path in home.parent.rglob("*") if path.is_file() and not path.is_relative_to(home)]


@pytest.mark.parametrize("etag", ["../../../../evil", "/tmp/retain-local-evil"])
def test_an_etag_that_is_no_name(hub: Hub, tmp_path: Path, etag: str) -> None:
    hub.etag = etag
    done = fetch(hub, tmp_path / "home")
    assert done.returncode == 1
    assert "which is no name" in done.stderr and "Traceback" not in done.stderr
    assert files_outside(tmp_path / "home") == [] and hub.downloads == []
    assert not Path("/tmp/retain-local-evil").exists()


def test_a_commit_that_is_no_name(hub: Hub, tmp_path: Path) -> None:
    hub.commit = "../../../../evil"
    done = fetch(hub, tmp_path / "home")
    assert done.returncode == 1 and "which is no name" in done.stderr
    assert files_outside(tmp_path / "home") == []


@pytest.mark.parametrize(
    "name", ["a//b", "C:\\evil.gguf", "", ".", "a/..", "a\n.gguf", "\u202e.gguf", "x" * 2000, "a\0"]
)
def test_what_is_no_name_of_a_file(name: str) -> None:
    with pytest.raises(RetainError, match="no name of a file"):
        check_file_name("ann/tiny", name)


@pytest.mark.parametrize("name", ["../evil.gguf", "/evil.gguf", "a/../../evil\x1b[2J.gguf"])
def test_names_of_files_that_are_none(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.repos["ann/tiny"] = {name: GATES, "tiny-Q4_K_M.gguf": GATES}
    done = fetch(hub, tmp_path / "home")
    assert done.returncode == 1
    assert "which is no name of a file" in done.stderr and "Traceback" not in done.stderr
    assert files_outside(tmp_path / "home") == [] and hub.downloads == []


@pytest.mark.parametrize("listing", [b"not json", b"[]", b'{"id": "ann/tiny", "siblings": [{}]}', b"[" * 100_000])
def test_an_answer_that_is_damaged(hub: Hub, tmp_path: Path, listing: bytes) -> None:
    hub.listing = listing
    done = fetch(hub, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("refused: ") and done.stderr.count("\n") == 1, done.stderr
