"""The bundled model: it loads, reads its own task, and answers with a full and with a small cache."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from retain_local import Llama
from retain_local.gates import base_fingerprint, read_sidecar
from retain_local.gates.bundled import tasks

ASSETS = Path(str(files("retain_local") / "assets"))
MODEL, GATES = ASSETS / "bundled.gguf", ASSETS / "bundled.gates.gguf"
SEEDS = range(1000, 1003)


def load(**arguments) -> Llama:
    return Llama(model_path=str(MODEL), n_ctx=1024, n_ubatch=64, verbose=False, **arguments)


def share_answered(llm: Llama, **shape) -> float:
    """Share of questions answered right, each asked of the cache as the document left it."""
    right = asked = 0
    for seed in SEEDS:
        sample = tasks.demo_sample(seed, **shape)
        document = tasks.messages(sample)[:2]
        llm.reset()
        llm.eval(llm.tokenize(tasks.render(document).encode(), add_bos=False, special=True))
        state = llm.save_state()
        for question, answer in sample.questions:
            llm.load_state(state)
            reply = llm.create_chat_completion(
                [*document, {"role": "user", "content": question}], temperature=0, max_tokens=12
            )
            right, asked = right + (reply["choices"][0]["message"]["content"] == answer), asked + 1
    return right / asked


@pytest.fixture(scope="module")
def full() -> Llama:
    return load(gates=None, policy="none")


def test_assets_are_small_and_belong_together():
    assert MODEL.stat().st_size + GATES.stat().st_size < 3_000_000
    sidecar = read_sidecar(GATES)
    assert sidecar.gates.variant == "rg10" and sidecar.gates.tied
    assert sidecar.info.base_fingerprint == base_fingerprint(MODEL)


def test_every_word_is_a_token_and_text_comes_back(full):
    text = tasks.render(tasks.messages(tasks.demo_sample(0), system=tasks.SYSTEM_PROMPTS[0]))
    tokens = full.tokenize(text.encode(), add_bos=False, special=True)
    assert len(tokens) == tasks.count_tokens(text)
    assert full.detokenize(tokens, special=True).decode() == text


def test_any_text_can_be_tokenized(full):
    text = "Zürich — 12 Wörter, \t東京 🙂"
    assert full.detokenize(full.tokenize(text.encode(), add_bos=False)).decode() == text


def test_the_chat_template_is_the_one_it_was_trained_with(full):
    assert full.metadata["tokenizer.chat_template"] == tasks.CHAT_TEMPLATE


@pytest.mark.parametrize("document_tokens", [256, 512, 768])
def test_full_cache_answers(full, document_tokens):
    assert share_answered(full, document_tokens=document_tokens) >= 0.95


def test_an_eighth_of_the_cache_answers_with_gates():
    assert share_answered(load(budget=64)) >= 0.9


def test_an_eighth_of_the_cache_forgets_without_gates():
    assert share_answered(load(budget=64, gates=None, policy="window")) <= 0.4
