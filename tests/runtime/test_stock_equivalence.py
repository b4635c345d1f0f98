"""While nothing is evicted, patched llama.cpp writes what stock llama.cpp writes.

Both libraries cannot live in one process, so each architecture runs once in a process on the stock libraries and once
on ours, with the same cell types, ubatch sizes and numbers of threads.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import TinyFiles
from support.libraries import PATCHED, require_stock
from support.tiny_models import N_VOCAB, TINY_MODELS, WRITTEN
from support.worker import run_worker

STOCK = require_stock()

N_PROMPT, N_GREEDY, N_TAIL = 200, 256, 20
N_CTX = 1024
PROMPT = [1, *np.random.default_rng(1).integers(3, N_VOCAB, N_PROMPT - 1).tolist()]

# Largest difference of a logit, in standard deviations of the logits of the tokens that the model writes. With f32
# cells both sides compute in f32 throughout; measured: 2e-6. With f16 cells stock rounds queries and attention weights
# to f16, which we keep in f32; measured: 2e-3. With q8_0 cells both round queries to q8_0, where a difference in the
# last bit of f32 can move a number by a whole step; measured: 4e-3.
TOLERANCE = {"f32": 1e-5, "f16": 5e-3, "q8_0": 1e-2}

# llama.cpp reads gelu from a table of f16 numbers: the last bit of an f32 input can move its output by an f16 step
GELU_MODELS, GELU_TOLERANCE = ("starcoder2", "gemma"), 1e-3

# cell type, ubatch, threads: the prompt in one ubatch and in many
SETTINGS = [("f32", 512, 1), *itertools.product(("f16", "q8_0"), (512, 16), (1, 2))]


def runs(retain: dict[str, Any] | None) -> list[dict[str, Any]]:
    steps = [("decode", PROMPT), ("greedy", N_GREEDY)]
    return [
        {
            "retain": retain,
            "context": {
                "cell_type": cell_type,
                "n_ubatch": n_ubatch,
                "n_threads": n_threads,
                "flash_attn": cell_type == "q8_0",  # stock has quantised V only with it
                "n_ctx": N_CTX,
            },
            "steps": steps,
        }
        for cell_type, n_ubatch, n_threads in SETTINGS
    ]


@pytest.mark.parametrize("arch", TINY_MODELS)
def test_same_text_and_logits_as_stock(tiny: TinyFiles, tmp_path: Path, arch: str) -> None:
    model = tiny.model(arch)
    gates = {"budget": N_CTX, "gates": str(tiny.gates(arch))}
    tail = {"retain": None, "context": {"n_ctx": N_CTX}, "steps": [("decode", PROMPT[-N_TAIL:])]}
    stock = run_worker(tmp_path, model, [*runs(None), tail], STOCK)
    ours = run_worker(tmp_path, model, runs(gates), PATCHED)

    for i, (cell_type, n_ubatch, n_threads) in enumerate(SETTINGS):
        where = f"{cell_type} cells, ubatches of {n_ubatch}, {n_threads} threads"
        tolerance = max(TOLERANCE[cell_type], GELU_TOLERANCE if arch in GELU_MODELS else 0)
        scale = stock[f"{i}.0.logits"][:, WRITTEN].std()
        np.testing.assert_array_equal(ours[f"{i}.1.tokens"], stock[f"{i}.1.tokens"], err_msg=where)
        for step in (0, 1):
            difference = np.abs(ours[f"{i}.{step}.logits"] - stock[f"{i}.{step}.logits"]).max() / scale
            assert difference <= tolerance, f"{where}, step {step}"

    # what is in the cache decides: without it the next token is another one, by far
    scale = stock["0.0.logits"][:, WRITTEN].std()
    assert np.abs(stock["0.0.logits"][-1] - stock[f"{len(SETTINGS)}.0.logits"][-1]).max() > 0.5 * scale
    assert len(set(stock["0.1.tokens"].tolist())) >= 10
