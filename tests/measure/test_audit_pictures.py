"""Audits of texts that begin with pictures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from retain_local import Llama
from retain_local.divergence.lockstep import diverge
from retain_local.divergence.text_cache import chunks
from retain_local.divergence.texts import PICTURE_PIECE, make_texts
from retain_local.errors import RetainError, UsageError
from retain_local.kv_types import kv_type
from retain_local.options.retention_options import RetentionOptions
from retain_local.vision.source import read_image_file
from support.command_line import FAST, run
from support.llamas import load, text
from support.pictures import write_png
from support.tiny_vision import TINY_VISION, write_tiny_vision

N_CHUNK = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vision")
    write_tiny_vision(folder, TINY_VISION["qwen2vl"])
    write_png(folder / "0.png", 300, 180)
    (folder / "t.txt").write_text(text(200))
    return folder


@pytest.fixture(scope="module")
def llm(folder: Path):
    llm = load(next(folder.glob("[!m]*.gguf")), policy="none", n_ubatch=N_CHUNK)
    yield llm
    llm.close()


def options(llm: Llama, budget: int) -> RetentionOptions:
    f32 = kv_type("f32")
    wanted = RetentionOptions(budget, buffer=N_CHUNK, policy="window", gates=None, n_ubatch=N_CHUNK)
    return wanted.resolve(llm.model_file, n_ctx=llm.n_ctx(), type_k=f32, type_v=f32)


def test_a_picture_is_read_and_not_predicted(llm: Llama, folder: Path) -> None:
    """Nothing diverges before an eviction; after it the tokens of text count, and what is left of the picture is known."""
    image = llm.projector.read(read_image_file(folder / "0.png"), "0.png")
    (one,) = make_texts(llm, {"t": text(200)}, None, images=[image])
    assert one.tokens[1 : 1 + len(image.tokens)] == list(image.tokens) and one.pieces.count(PICTURE_PIECE) == 66
    assert "".join(one.pieces).replace(PICTURE_PIECE, "").endswith(text(200))
    whole, small = diverge(llm, one.tokens, [options(llm, 400), options(llm, 48)])
    of_picture = np.array(one.tokens[1:]) < 0
    for found in (whole, small):
        assert (found.is_text == ~of_picture).all()
        assert not found.kl[of_picture].any() and (found.full.top[of_picture] == -1).all()
        assert (found.full.top[~of_picture] >= 0).all()
    assert whole.kl.max() < 1e-9 and whole.n_of_pictures == (66 * 4, 66 * 4)
    assert small.kl[small.n_whole :].max() > 0.01 and small.n_of_pictures == (0, 66 * 4)  # the window has moved on


def test_what_is_read_is_what_the_model_reads(llm: Llama, folder: Path) -> None:
    """The predictions of the full cache are those of a prompt with the same picture."""
    image = llm.projector.read(read_image_file(folder / "0.png"), "0.png")
    (one,) = make_texts(llm, {"t": text(60)}, None, images=[image])
    (found,) = diverge(llm, one.tokens, [options(llm, 400)])
    other = load(llm.model_path, policy="none", logits_all=True)
    held = other.projector.read(read_image_file(folder / "0.png"), "0.png")
    other.eval(one.tokens[:-1])
    top = other.scores[: other.n_tokens].argmax(axis=1)
    assert (top == found.full.top)[found.is_text].all()
    del held
    other.close()


def test_windows_begin_with_the_pictures(llm: Llama, folder: Path) -> None:
    image = llm.projector.read(read_image_file(folder / "0.png"), "0.png")
    windows = make_texts(llm, {"t": text(200)}, 200, images=[image])
    assert len(windows) > 1
    assert all(one.tokens[1 : 1 + len(image.tokens)] == list(image.tokens) for one in windows)
    with pytest.raises(UsageError, match="leaves no room for text"):
        make_texts(llm, {"t": text(200)}, 100, images=[image])


def test_chunks_end_where_pictures_do(llm: Llama, folder: Path) -> None:
    image = llm.projector.read(read_image_file(folder / "0.png"), "0.png")
    llm.eval([1, *image.tokens])
    (placed,) = llm.layout.placed
    found = list(chunks(200, 32, llm.layout))
    assert found[0][0] == 0 and found[-1][1] == 200 and all(a[1] == b[0] for a, b in zip(found, found[1:]))
    assert {placed.start, placed.stop} <= {start for start, _ in found} and max(b - a for a, b in found) <= 32


def test_audit_says_what_is_left_of_pictures(folder: Path, tmp_path: Path) -> None:
    model = next(folder.glob("[!m]*.gguf"))
    asked = ["--text", folder / "t.txt", "--image", folder / "0.png", "--budgets", "300,32", "--policy", "window"]
    files = ["--no-store", "--json", "a.json", "--report", "a.html"]
    done = run(
        tmp_path, "audit", model, *FAST[:2], *asked, *files, "--buffer", "16", "--ubatch", "16", "--gates", "none"
    )
    assert done.returncode in (0, 2), done.stderr
    lines = " ".join(done.stdout.split())
    assert "cells of pictures left at the end of the texts: 100.0% at 300, 0.0% at 32" in lines
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["texts"][0]["n_tokens_of_pictures"] == 66
    assert [one["picture_cells"] for one in found["budgets"]] == [{"left": n, "came": 264} for n in (264, 0)]
    page = (tmp_path / "a.html").read_text()
    assert PICTURE_PIECE in page and re.search(r"Of pictures .* of 264 cells are left", page)
    done = run(tmp_path, "audit", model, *FAST[:2], *asked[:2], "--image", folder / "t.txt")
    assert done.returncode == 1 and "is no picture" in done.stderr


def test_a_picture_that_is_computed_at_once_must_fit_a_chunk(tmp_path: Path) -> None:
    model, _ = write_tiny_vision(tmp_path, TINY_VISION["gemma3"])
    llm = load(model, policy="none", n_ubatch=N_CHUNK)
    image = llm.projector.read(read_image_file(write_png(tmp_path / "0.png", 50, 50)), "0.png")
    (one,) = make_texts(llm, {"t": text(60)}, None, images=[image])
    with pytest.raises(RetainError, match="the picture is 64 tokens"):
        diverge(llm, one.tokens, [options(llm, 40)])
    llm.close()
