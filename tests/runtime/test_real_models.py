"""Two real models: SmolLM2-135M-Instruct with Q4_1 weights, and Gemma 3 270M with Q4_K and others.

Which of two near words comes next depends on the last bit of a float in quantised models (see
`test_quantised_models.py`). What is asked here has answers that are far from the next best.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retain_local import Llama
from retain_local.chat.generation import Sampling
from retain_local.chat.session import Session
from support.command_line import run
from support.libraries import PATCHED, require_stock
from support.llama_session import Model
from support.quantised import FLOAT, quantise
from support.worker import run_worker

STOCK = require_stock()

N_CTX = 512
EVERYTHING = {"budget": N_CTX, "policy": "window"}

STORY = (
    "The village of Lower Marsh has one street, one inn and a mill that no longer turns. In spring the river comes up "
    "to the doors, and the people carry their chairs upstairs and wait. {fact} In summer the carters rest their horses "
    "under the limes, and the baker's boy sells rolls from a basket. Nobody remembers who built the bridge, but "
    "everybody knows who broke it: a smith from the hills, with a cart full of anvils."
)
FACT = "The key of the old mill lies under the blue flowerpot."
CAPITAL = "What is the capital of France?"
QUESTION = "Where is the key of the old mill?"


def template(message: str) -> str:
    """A user message as SmolLM2 reads it."""
    return f"<|im_start|>user\n{message}<|im_end|>\n<|im_start|>assistant\n"


def difference(values: np.ndarray, reference: np.ndarray) -> float:
    """Root mean square of the difference, in standard deviations of the reference."""
    return float(np.sqrt(np.mean((values - reference) ** 2)) / reference.std())


Arrays = dict[str, np.ndarray]


def on_both(folder: Path, path: Path, prompt: str, cells: list[tuple[str, bool]], n: int) -> tuple[Arrays, Arrays]:
    """What stock and patched libraries compute for a prompt and n tokens after it, for each (cell type, flash)."""
    model = Model(path)
    steps = [("decode", model.tokenize(prompt)), ("greedy", n)]
    model.close()
    contexts = [{"cell_type": t, "flash_attn": flash, "n_ctx": N_CTX, "n_threads": 2} for t, flash in cells]
    stock, ours = (
        run_worker(folder, path, [{"retain": retain, "context": c, "steps": steps} for c in contexts], libraries)
        for retain, libraries in ((None, STOCK), (EVERYTHING, PATCHED))
    )
    return stock, ours


def test_with_float_weights_patched_is_stock(smollm2: Path, tmp_path: Path) -> None:
    """The weights of the real model without the 8 bits that products round to: one text, equal up to rounding."""
    path = quantise(smollm2, tmp_path / "model.gguf", FLOAT)
    question = template(CAPITAL)
    stock, ours = on_both(tmp_path, path, question, [("f32", False), ("f16", True)], 8)
    path.unlink()  # half a gigabyte
    for i, tolerance in enumerate([1e-5, 1e-2]):
        np.testing.assert_array_equal(ours[f"{i}.1.tokens"], stock[f"{i}.1.tokens"])
        for step in (0, 1):
            assert difference(ours[f"{i}.{step}.logits"], stock[f"{i}.{step}.logits"]) <= tolerance


def test_with_its_own_weights_patched_is_as_near_to_stock_as_stock_to_itself(smollm2: Path, tmp_path: Path) -> None:
    """The yardstick is what another rounding of attention, by flash attention in f16, changes in stock llama.cpp."""
    cells = [("f32", False), ("f16", True), ("q8_0", True), ("q4_0", True)]
    stock, ours = on_both(tmp_path, smollm2, template(f"{FACT} {QUESTION}"), cells, 8)
    exact = stock["0.0.logits"]
    noise = difference(stock["1.0.logits"], exact)
    assert noise > 0.01
    for i, (cell_type, _) in enumerate(cells):
        # attention over one cell is that cell, so that nothing is rounded otherwise for the first token
        np.testing.assert_array_equal(ours[f"{i}.0.logits"][0], stock[f"{i}.0.logits"][0])
        own = max(noise, difference(stock[f"{i}.0.logits"], exact))
        assert difference(ours[f"{i}.0.logits"], stock[f"{i}.0.logits"]) <= 1.5 * own, cell_type
        if cell_type != "q4_0":  # keys of 4 bits lose the answer, in stock too
            np.testing.assert_array_equal(ours[f"{i}.1.tokens"], stock[f"{i}.1.tokens"])


def load(path: Path, **options) -> Llama:
    fixed = {"n_ctx": N_CTX, "policy": "window", "n_threads": 2, "n_threads_batch": 2}
    return Llama(path, **{"n_ubatch": 64, **fixed, **options})


@pytest.mark.parametrize(
    "options, is_found",
    [
        ({"budget": N_CTX}, True),
        ({"budget": N_CTX, "flash_attn": True}, True),
        ({"budget": N_CTX, "type_k": "q8_0", "type_v": "q8_0"}, True),
        ({"budget": 48, "buffer": 16, "n_ubatch": 16}, False),  # the fact is 60 tokens before the question
    ],
)
def test_a_fact_is_found_while_its_cells_are_there(smollm2: Path, options: dict, is_found: bool) -> None:
    llm = load(smollm2, **options)
    message = f"{STORY.format(fact=FACT)}\n\n{QUESTION}"
    reply = llm.create_chat_completion([{"role": "user", "content": message}], max_tokens=16, temperature=0)
    assert ("under the blue flowerpot" in reply["choices"][0]["message"]["content"]) == is_found
    assert (llm.retention.stats().evictions == 0) == is_found
    llm.close()


def test_a_chat_beyond_its_budget(smollm2: Path) -> None:
    llm = load(smollm2, budget=64, buffer=32, n_ubatch=32)
    chat = Session(llm, sampling=Sampling(temp=0, max_tokens=24))
    for message in ("Name three animals.", "Write a sentence about the sea.", "What is 2+2?", CAPITAL):
        reply = "".join(chat.send(message))
        stats = llm.retention.stats()
        assert stats.cells_peak <= stats.cells_limit == stats.cell_lists * (64 + 32)
    assert "Paris" in reply
    assert stats.evictions >= 2 and stats.tokens_seen > 2 * 64
    llm.close()


def test_a_saved_chat_goes_on(smollm2: Path, tmp_path: Path) -> None:
    options = ["--policy", "window", "--budget", 64, "--buffer", 32, "--ctx", N_CTX, "--ubatch", 32, "--threads", 2]
    options += ["--temp", 0, "--max-tokens", 16, "--type-k", "q8_0", "--type-v", "q8_0"]
    first = run(tmp_path, "chat", smollm2, *options, stdin=f"{STORY.format(fact='')}\n/save a\nName a colour.\n")
    assert first.returncode == 0, first.stderr
    second = run(tmp_path, "chat", smollm2, *options, stdin="/load a\nName a colour.\n")
    assert second.returncode == 0, second.stderr
    assert second.stdout.strip() and first.stdout.endswith(second.stdout)


def test_sliding_windows_are_as_near_to_stock_as_stock_to_itself(gemma3: Path, tmp_path: Path) -> None:
    prompt = STORY.format(fact=FACT)
    stock, ours = on_both(tmp_path, gemma3, prompt, [("f32", False), ("f16", True), ("q8_0", True)], 8)
    exact = stock["0.0.logits"]
    noise = difference(stock["1.0.logits"], exact)
    assert noise > 0.005
    for i, cell_type in enumerate(("f32", "f16", "q8_0")):
        own = max(noise, difference(stock[f"{i}.0.logits"], exact))
        assert difference(ours[f"{i}.0.logits"], stock[f"{i}.0.logits"]) <= 1.5 * own, cell_type


def test_a_model_with_sliding_windows_beyond_its_budget(gemma3: Path, tmp_path: Path) -> None:
    """One layer in six attends to everything; the others have a window of 512 tokens."""
    llm = load(gemma3, budget=64, buffer=32, n_ubatch=32, n_ctx=1024)
    assert llm.retention.layers == (5, 11, 17)
    text = "".join(f" On day {day} the ferry sails at {8 + day % 3} o'clock." for day in range(1, 40))
    prompt = llm.tokenize(f"{text} On day 40 the ferry sails at".encode())
    assert len(prompt) > 512
    written = llm.create_completion(prompt, max_tokens=8, temperature=0)["choices"][0]["text"]
    assert "o'clock" in written
    stats = llm.retention.stats()
    assert stats.cells_kept <= stats.cells_limit == 3 * (64 + 32) and stats.evictions > 5
    assert 0 < stats.bytes_fixed == llm.retention.stats().bytes_fixed

    again = llm.create_completion(prompt, max_tokens=8, temperature=0)["choices"][0]["text"]
    state = llm.save_state()
    llm.create_completion("Once upon a time", max_tokens=8, temperature=0)
    llm.load_state(state)
    assert again == written
    assert llm.create_completion(prompt, max_tokens=8, temperature=0)["choices"][0]["text"] == written
    llm.close()
    done = run(tmp_path, "run", gemma3, "-p", "Once", "--budget", "64", "--temp", "0", "--max-tokens", "4")
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_a_budget_in_bytes_counts_the_layers_of_the_pool(gemma3: Path) -> None:
    llm = load(gemma3, budget="300KB", buffer=64, n_ctx=1024)
    stats = llm.retention.stats()
    assert stats.cell_lists == 3 and stats.bytes_cell == 2 * 256 * 2
    assert stats.budget == 300_000 // (3 * 1024) - 64
    llm.close()


def test_without_a_budget_the_patched_libraries_are_stock(gemma3: Path, tmp_path: Path) -> None:
    """To the bit, with weights of several types in buffers of several kinds."""
    model = Model(gemma3)
    steps = [("decode", model.tokenize("Monday, Tuesday, Wednesday, Thursday,")), ("greedy", 3)]
    friday = model.tokenize("Monday, Friday")[-1]
    model.close()
    runs = [{"context": {"n_ctx": N_CTX, "n_threads": 2}, "steps": steps}]
    stock, patched = (run_worker(tmp_path, gemma3, runs, libraries) for libraries in (STOCK, PATCHED))
    assert patched["0.1.tokens"][0] == friday
    for name, values in stock.items():
        np.testing.assert_array_equal(patched[name], values)
