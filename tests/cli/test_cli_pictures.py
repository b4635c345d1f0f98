"""Pictures on the command line: `run --image`, `/image` in a chat, and projectors that are missing or wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import TinyFiles
from support.command_line import FAST, run
from support.pictures import write_png
from support.tiny_vision import TINY_VISION, write_tiny_vision

OPTIONS = [*FAST, "--temp", "0", "--max-tokens", "8", "--ctx", "1024"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vision")
    write_tiny_vision(folder, TINY_VISION["qwen2vl"])
    for seed in range(2):
        write_png(folder / f"{seed}.png", 300, 180, seed)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return next(folder.glob("[!m]*.gguf"))


def test_run_with_pictures(folder: Path, model: Path, tmp_path: Path) -> None:
    """One and several, as a message and as a text to go on with, in a cache smaller than one of them."""
    asked = [model, *OPTIONS, "-p", "what is it", "--json"]
    pictures = ["--image", folder / "0.png", "--image", folder / "1.png"]
    counts = {}
    for name, more in {
        "none": [],
        "one": pictures[:2],
        "two": pictures,
        "chat": [*pictures[:2], "--chat", "--budget", "48"],
        "named": [*pictures[:2], "--mmproj", next(folder.glob("mmproj*"))],
    }.items():
        done = run(tmp_path, "run", *asked, *more)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        counts[name] = found["prompt_tokens"]
        assert found["retention"]["cells_peak"] <= found["retention"]["cells_limit"]
        assert found["retention"]["tokens_seen"] == counts[name] + 7  # the last one was written and not read
    assert counts["two"] - counts["one"] == counts["one"] - counts["none"] > 66
    assert counts["chat"] > counts["one"] == counts["named"]


def test_pictures_in_a_chat(folder: Path, model: Path, tmp_path: Path) -> None:
    lines = [
        f"/image {folder / '0.png'}",
        "what is it",
        "/cache",
        "/save s",
        "/image none.png",
        "and now",
        "/load s",
        f"/image {folder / '1.png'}",
        "and this",
    ]
    done = run(tmp_path, "chat", model, *OPTIONS, "--budget", "48", stdin="\n".join(lines))
    notes = done.stderr.splitlines()
    assert f"{folder / '0.png'}: 66 tokens, with the next message" in done.stderr.replace("\n", "")
    assert "of a picture" in done.stdout
    assert sum("reply 8 tok" in line for line in notes) == 3
    assert sum("error:" in line for line in notes) == 1 and "none.png cannot be read" in done.stderr
    assert done.returncode == 1


def test_what_cannot_be_used_is_one_line(folder: Path, model: Path, tmp_path: Path, tiny: TinyFiles) -> None:
    write_png(tmp_path / "right.png", 30, 30)
    (tmp_path / "text.png").write_text("no picture")
    for arguments, reason in {
        (model, "--image", "text.png"): "text.png is no picture",
        (model, "--image", "none.png"): "none.png cannot be read",
        (model, "--mmproj", "none.gguf"): "none.gguf: no such projector",
        (model, "--mmproj", model): "is no projector (mmproj)",
        (tiny.model("llama"), "--image", "right.png"): "there is no mmproj*.gguf beside",
        (tiny.model("llama"), "--mmproj", next(folder.glob("mmproj*"))): "is the projector of another model",
    }.items():
        done = run(tmp_path, "run", *arguments, *OPTIONS, "-p", "hello", "--policy", "window", "--gates", "none")
        assert done.returncode == 1 and not done.stdout
        (line,) = (line for line in done.stderr.splitlines() if line.startswith("retain-local: "))
        assert reason in line
