"""The bundled model: it loads in stock llama.cpp too, reads its tasks, and answers with a full and with a small cache."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from retain_local import Llama
from retain_local.evaluation.arms import make_arms
from retain_local.evaluation.plan import Plan, prepare_tasks
from retain_local.evaluation.records import RecordFile
from retain_local.evaluation.run import run_units, units_left
from retain_local.evaluation.source import find_sources
from retain_local.gates import base_fingerprint, read_sidecar
from retain_local.paths import BUNDLED_MODEL
from retain_local.tasks import TASKS, count_words
from support.libraries import PATCHED, STOCK_VARIABLE
from support.worker import run_worker

GATES = BUNDLED_MODEL.with_suffix(".gates.gguf")
LOAD = {"n_ubatch": 64, "n_batch": 64, "buffer": 16, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
# counting, which it is bad at, and random keys, which no small cache can hold, apart
LEARNED = ("single", "several", "hops2", "hops3", "changes", "decoys", "copying")


@pytest.fixture(scope="module")
def llm() -> Llama:
    llm = Llama(BUNDLED_MODEL, n_ctx=1024, gates=None, policy="none", **LOAD)
    yield llm
    llm.close()


def test_assets_are_small_and_belong_together() -> None:
    assert BUNDLED_MODEL.stat().st_size + GATES.stat().st_size < 12_000_000
    sidecar = read_sidecar(GATES)
    assert sidecar.gates.variant == "rg10" and sidecar.gates.tied
    assert sidecar.info.base_fingerprint == base_fingerprint(BUNDLED_MODEL)
    for path in (BUNDLED_MODEL, GATES):
        assert not re.search(rb"/(home|root|tmp|Users)/", path.read_bytes())  # where it was made is nobody's business


@pytest.mark.parametrize("task", TASKS)
def test_every_word_of_the_tasks_is_a_token_and_text_comes_back(llm: Llama, task: str) -> None:
    item = TASKS[task].item("tokens")
    for text in [content for _, content in item.turns] + [f"{q.text} {q.answer}" for q in item.questions]:
        tokens = llm.tokenize(text.encode(), add_bos=False)
        n_spaces = sum(map(str.isdigit, text))  # a digit stands alone, and so does the space before it
        assert len(tokens) == count_words(text) + n_spaces
        assert llm.detokenize(tokens).decode() == text


def test_any_text_can_be_tokenized(llm: Llama) -> None:
    text = "Zürich — 12 Wörter, \t東京 🙂"
    assert llm.detokenize(llm.tokenize(text.encode(), add_bos=False)).decode() == text


def test_llama_cpp_splits_texts_as_training_did(llm: Llama) -> None:
    from tokenizers import models

    from retain_local.gates.bundled.tokenizer import CHAT_TEMPLATE, new_tokenizer

    assert llm.metadata["tokenizer.chat_template"] == CHAT_TEMPLATE
    fields = GGUFReader(BUNDLED_MODEL).fields
    tokens, merges = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges"))
    vocabulary = {text: token for token, text in enumerate(tokens)}
    tokenizer = new_tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(merge.split(" ")) for merge in merges]))
    for text in [content for task in TASKS.values() for _, content in task.item("tokens").turns]:
        odd = text.upper() + "  …\n\n" + text[:40].replace("e", "é")
        for part in (text, odd):
            assert llm.tokenize(part.encode(), add_bos=False) == tokenizer.encode(part).ids


def test_stock_llama_cpp_runs_it(llm: Llama, tmp_path: Path) -> None:
    stock = os.environ.get(STOCK_VARIABLE)
    if not stock:
        pytest.skip(f"set {STOCK_VARIABLE} to a folder with stock libraries of the same release")
    prompt = llm.tokenize(TASKS["single"].item(0).turns[0][1].encode(), add_bos=False)[:400]
    steps = [("decode", prompt), ("greedy", 40)]
    runs = [{"retain": None, "context": {"n_ctx": 512, "cell_type": "f32"}, "steps": steps}]
    found = [run_worker(tmp_path, BUNDLED_MODEL, runs, Path(libraries)) for libraries in (PATCHED, stock)]
    np.testing.assert_array_equal(*(arrays["0.1.tokens"] for arrays in found))


@pytest.fixture(scope="module")
def shares() -> dict[tuple[str, str], float]:
    """Share of the questions answered right by (arm, task)."""
    plan = Plan(
        BUNDLED_MODEL, find_sources(list(LEARNED), {}), make_arms(["gate", "window"], ["1/8"]), n_items=40, seed=7,
        load=LOAD | {"gates": "auto", "sinks": 4},
    )  # fmt: skip
    tasks = prepare_tasks(plan)
    records = list(run_units(plan, tasks, units_left(plan, tasks, RecordFile(None, plan.settings()))))
    scores: dict[tuple[str, str], list[float]] = {}
    for record in records:
        scores.setdefault((record.method, record.task), []).extend(record.scores)
    return {key: float(np.mean(values)) for key, values in scores.items()}


def test_the_full_cache_answers(shares: dict) -> None:
    assert np.mean([shares["full", task] for task in LEARNED]) >= 0.95
    assert min(shares["full", task] for task in LEARNED) >= 0.85


def test_an_eighth_of_the_cache_answers_with_gates(shares: dict) -> None:
    full, gate = (np.mean([shares[method, task] for task in LEARNED]) for method in ("full", "gate"))
    assert gate >= 0.95 * full


def test_an_eighth_of_the_cache_forgets_without_gates(shares: dict) -> None:
    assert np.mean([shares["window", task] for task in LEARNED]) <= 0.4
