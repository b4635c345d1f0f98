"""While nothing is evicted, what is written about pictures is what stock llama.cpp writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_cpp import llama_chat_format

from support.libraries import PATCHED, require_stock
from support.llamas import load
from support.pictures import write_png
from support.tiny_models import WRITTEN
from support.tiny_vision import TINY_VISION, write_tiny_vision
from support.vision_worker import MODEL_OPTIONS, logits_and_text, run_vision_worker, stock_with_mtmd

STOCK = require_stock()

N_WRITTEN = 40
TOLERANCE = 1e-5  # of a logit, in standard deviations of those of the tokens that the model writes
GELU_TOLERANCE = 1e-3  # gemma3: as test_stock_equivalence has it
FULL = {**MODEL_OPTIONS, "policy": "none"}


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stock_with_mtmd(tmp_path_factory.mktemp("stock"), STOCK, PATCHED)


def picture(url: Path) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url.as_uri()}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """One picture and a question; two of other shapes, the first of them twice, and turns around them."""
    folder = tmp_path_factory.mktemp("pictures")
    wide, tall = write_png(folder / "wide.png", 340, 120), write_png(folder / "tall.png", 90, 260, seed=1)
    return [
        [{"role": "user", "content": [picture(wide), text("what is it")]}],
        [
            {"role": "system", "content": "look closely"},
            {"role": "user", "content": [text("first "), picture(tall), text(" and then "), picture(wide)]},
            {"role": "assistant", "content": "two things"},
            {"role": "user", "content": [picture(tall), text("which of them is this")]},
        ],
    ]


@pytest.mark.parametrize("kind", TINY_VISION)
def test_same_text_and_logits_as_stock(
    kind: str, stock: Path, conversations: list[list[dict[str, Any]]], tmp_path: Path
) -> None:
    """By the model's own template and by the bindings' handler, the picture in one ubatch and in several."""
    model, projector = write_tiny_vision(tmp_path, TINY_VISION[kind])
    job = {"model": str(model), "projector": str(projector), "handler": "MTMDChatHandler", "n": N_WRITTEN}
    expected = run_vision_worker(tmp_path, job | {"conversations": conversations}, stock)

    handler = llama_chat_format.MTMDChatHandler(str(projector), verbose=False)
    at_once = not TINY_VISION[kind].is_causal
    ours = {
        "own template": load(model, **FULL, mmproj=projector),
        "handler": load(model, **FULL, chat_handler=handler),
        "small ubatches": load(model, **{**FULL, "n_ubatch": 64 if at_once else 24}, mmproj=projector),
    }
    tolerance = GELU_TOLERANCE if at_once else TOLERANCE
    for where, llm in ours.items():
        for i, messages in enumerate(conversations):
            logits, written = logits_and_text(llm, messages, N_WRITTEN)
            assert written == str(expected[f"{i}.text"]), where
            scale = expected[f"{i}.logits"][WRITTEN].std()
            assert np.abs(logits - expected[f"{i}.logits"])[WRITTEN].max() <= tolerance * scale, where
        llm.close()
    # what is seen decides: other pictures give other logits, by far
    one, other = (expected[f"{i}.logits"][WRITTEN] for i in (0, 1))
    assert np.abs(one - other).max() > 100 * tolerance * one.std()


@pytest.mark.parametrize(
    "name", ["Llava15ChatHandler", "Qwen25VLChatHandler", "Llava16ChatHandler", "NanoLlavaChatHandler"]
)
def test_handlers_with_templates_of_their_own(
    name: str, stock: Path, conversations: list[list[dict[str, Any]]], tmp_path: Path
) -> None:
    model, projector = write_tiny_vision(tmp_path, TINY_VISION["qwen2vl"])
    job = {"model": str(model), "projector": str(projector), "handler": name, "n": N_WRITTEN}
    expected = run_vision_worker(tmp_path, job | {"conversations": conversations[:1]}, stock)
    handler = getattr(llama_chat_format, name)(clip_model_path=str(projector), verbose=False)
    llm = load(model, **FULL, chat_handler=handler)
    assert logits_and_text(llm, conversations[0], N_WRITTEN)[1] == str(expected["0.text"])
    llm.close()
