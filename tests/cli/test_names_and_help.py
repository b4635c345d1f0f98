"""How a model is named, and how the program says what it can do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from typer.testing import CliRunner

from retain_local.chat.completer import CommandCompleter
from retain_local.cli import app
from retain_local.commands.loading import usual_threads
from retain_local.commands.model_name import HubName, find_model, find_sidecar, names_gguf
from retain_local.errors import UsageError
from retain_local.paths import BUNDLED_MODEL
from support.command_line import FAST, environment, run

REPO = "ann/tiny-GGUF"
FILE = "tiny-Q4_K_M.gguf"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (REPO, HubName(REPO)),
        (f"{REPO}:Q4_K_M", HubName(REPO, "Q4_K_M")),
        (f"{REPO}/{FILE}", HubName(REPO, FILE)),
        (f"{REPO}/BF16/m-00002-of-00003.gguf", HubName(REPO, "BF16/m-00001-of-00003.gguf")),
        (f"https://huggingface.co/{REPO}", HubName(REPO)),
        (f"https://huggingface.co/{REPO}/", HubName(REPO)),
        (f"https://huggingface.co/{REPO}/tree/main", HubName(REPO)),
        (f"https://huggingface.co/{REPO}/blob/main/{FILE}", HubName(REPO, FILE)),
        (f"https://huggingface.co/{REPO}/resolve/main/{FILE}?download=true", HubName(REPO, FILE)),
        (f"https://huggingface.co/{REPO}/resolve/v1/sub/{FILE}", HubName(REPO, f"sub/{FILE}", "v1")),
        (f"http://www.huggingface.co/{REPO}/blob/main/a%20b.gguf", HubName(REPO, "a b.gguf")),
        (f"hf.co/{REPO}", HubName(REPO)),
        (f"hf.co/{REPO}:Q4_K_M", HubName(REPO, "Q4_K_M")),
        (f"huggingface.co/{REPO}/blob/main/{FILE}", HubName(REPO, FILE)),
        (f"https://hf.co/{REPO}/{FILE}", HubName(REPO, FILE)),
        (f"hf://{REPO}/{FILE}", HubName(REPO, FILE)),
    ],
)
def test_names_on_the_hub(name: str, expected: HubName) -> None:
    assert HubName.of(name) == expected


@pytest.mark.parametrize("name", ["model.gguf", "models/x.gguf", "./a/b/c.gguf", "/a/b/c.gguf", "a/b/c", "bundle"])
def test_names_of_files(name: str) -> None:
    assert HubName.of(name) is None


@pytest.mark.parametrize(
    ("name", "is_gguf"),
    [
        ("model.gguf", True), ("bundled", True), (f"{REPO}:Q4_K_M", True), (f"{REPO}/{FILE}", True),
        (f"https://huggingface.co/{REPO}/blob/main/{FILE}", True), (REPO, False), ("folder", False), ("", False),
    ],
)  # fmt: skip
def test_what_must_be_a_gguf_file(name: str, is_gguf: bool) -> None:
    """Of what `gates train` takes as its base, which may be a model in the layout of transformers too."""
    assert names_gguf(name) == is_gguf


def test_a_missing_file_in_a_folder_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert HubName.of("models/sub/x.gguf") == HubName("models/sub", "x.gguf")
    (tmp_path / "models").mkdir()
    assert HubName.of("models/sub/x.gguf") is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("https://example.com/m.gguf", "is not on huggingface.co"),
        ("https://huggingface.co/", "is not the address of a model"),
        ("https://huggingface.co/datasets/ann/texts", "is not the address of a model"),
        (f"https://huggingface.co/{REPO}/blob/main/README.md", "is not the address of a .gguf file"),
    ],
)
def test_addresses_of_something_else(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=re.escape(reason)):
        HubName.of(name)


def test_the_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_model("bundled") == (BUNDLED_MODEL, None)
    assert find_sidecar("bundled").is_file()
    (tmp_path / "bundled").write_bytes(b"x")  # a file of that name comes first
    assert find_model("bundled") == (Path("bundled"), None) and find_sidecar("bundled") == Path("bundled")


def test_bundled_is_a_model_of_every_command(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("FACT ada b c d . " * 30)
    short = ["--max-tokens", 4, "--temp", 0, *FAST]
    commands = {
        "run": ["bundled", "-p", "ada", *short],
        "chat": ["bundled", *short],
        "audit": ["bundled", "--text", "text.txt", "--budgets", "1/2", "--ubatch", 16, "--buffer", 16, "--max-kl", 99],
        "bench": ["bundled", "--depths", 64, "--repeat", 1, "--tokens", 2, "--budget", 32, "--threads", 1, "--anyway"],
    }
    for command, arguments in commands.items():
        done = run(tmp_path, command, *arguments, stdin="ada\n")
        assert done.returncode == 0, f"{command}: {done.stderr}"
    assert run(tmp_path, "gates", "inspect", "bundled").returncode == 0
    verified = run(tmp_path, "gates", "verify", "bundled", "--base", "bundled", "--text", "text.txt", "--threads", 1)
    assert "the gates agree" in verified.stdout


def test_one_thread_for_a_tiny_model(tmp_path: Path) -> None:
    large = tmp_path / "large.gguf"
    large.touch()
    os.truncate(large, 40_000_000)
    assert (usual_threads(BUNDLED_MODEL), usual_threads(large), usual_threads(tmp_path / "absent")) == (1, None, None)


def leaves(command, path: tuple[str, ...] = ()):
    for name, child in getattr(command, "commands", {}).items():
        yield from leaves(child, (*path, name))
    yield path, command


COMMANDS = dict(leaves(typer.main.get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_is_a_screen(monkeypatch: pytest.MonkeyPatch, path: tuple[str, ...]) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    def shown(option: str) -> str:
        return CliRunner().invoke(app, [*path, option]).output

    short = shown("-h")
    assert short == shown("--help") and short.startswith("Usage: retain-local " + " ".join(path))
    assert len(short.splitlines()) <= 50
    assert all(len(line) <= 80 for line in short.splitlines()), short
    assert "list[" not in short and "{" not in short
    names = {option for parameter in COMMANDS[path].params for option in parameter.opts if option.startswith("--")}
    if "--help-all" not in names:
        assert all(option in short for option in names)
        return
    everything = shown("--help-all")
    assert not re.search(r"^ +/ --|<list\[", everything, re.M), "names are what is to be typed"
    assert all(option in everything for option in names)
    left_out = {option for option in names if option not in short}
    assert left_out and "--help-all" in short


@pytest.mark.parametrize(
    "command", [["chat"], ["run", "-p", "a"], ["serve"], ["bench", "--anyway"]], ids=lambda words: words[0]
)
def test_a_budget_may_be_the_one_of_an_audit(tmp_path: Path, command: list[str]) -> None:
    name, *more = command
    done = run(tmp_path, name, "bundled", *more, "--budget", "auto", XDG_DATA_HOME=str(tmp_path))
    assert done.returncode == 1 and "no audit has recommended a budget" in done.stderr
    assert "or auto (what audit recommended)" in " ".join(run(tmp_path, name, "--help").stdout.split())


def test_version(tmp_path: Path) -> None:
    assert re.fullmatch(
        r"retain-local \S.* \(llama.cpp of llama-cpp-python [\d.]+\)\n", run(tmp_path, "--version").stdout
    )


def test_as_a_module(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "retain_local", "chat", "-h"], capture_output=True, text=True, env=environment(tmp_path)
    )
    assert done.returncode == 0 and "Usage: retain-local chat" in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"), [("au", "audit"), ("chat model.gguf --min-per", "--min-per-head"), ("gates insp", "inspect")]
)
def test_completion_in_a_shell(tmp_path: Path, words: str, expected: str) -> None:
    asked = {"COMP_WORDS": f"retain-local {words}", "COMP_CWORD": str(len(words.split()))}
    assert run(tmp_path, _RETAIN_LOCAL_COMPLETE="complete_bash", **asked).stdout.split() == [expected]
    assert "complete " in run(tmp_path, _RETAIN_LOCAL_COMPLETE="source_bash").stdout


def test_a_tab_completes_in_a_chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.session").write_bytes(b"x")
    completer = CommandCompleter(["/load", "/exit"], ["/load"])

    def completed(typed: str) -> list[str]:
        found = completer.get_completions(Document(typed), CompleteEvent(completion_requested=True))
        return [typed[: len(typed) + one.start_position] + one.text for one in found]

    assert completed("/l") == ["/load"] and completed("/load a.s") == ["/load a.session"]
    assert completed("/exit a") == completed("hello a.s") == []
