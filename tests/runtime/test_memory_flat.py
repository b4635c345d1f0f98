"""A stream without end takes no more memory than its start."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from support.libraries import PATCHED
from support.tiny_gates import random_gates, write_tiny_gates
from support.tiny_models import TinyModel, write_tiny_model
from support.worker import run_worker

TINIEST = TinyModel("llama", n_layer=1, n_embd=32, n_head=2, n_head_kv=1, n_ff=32)
N_TOKENS, N_BATCH = 200_000, 512
BUDGET = 256
WARM_UP = 80  # batches
APART = 80  # batches between the sizes that are compared
GROWTH = 2 * APART * N_BATCH  # bytes: two a token
SPREAD = 2**22  # bytes: the logits of a batch come and go


def test_resident_memory_is_flat_over_200_000_tokens(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "m.gguf", TINIEST)
    sizes = TINIEST.n_layer, TINIEST.n_embd, TINIEST.n_head_kv
    gates = write_tiny_gates(tmp_path / "g.gguf", model, TINIEST, random_gates(*sizes, n_ff=32))
    run = {
        "retain": {"budget": BUDGET, "gates": str(gates)},
        "context": {"n_ctx": 1024, "n_batch": N_BATCH, "n_ubatch": N_BATCH},
        "steps": [("stream", N_TOKENS)],
    }
    arrays = run_worker(tmp_path, model, [run], PATCHED)
    resident, cells = arrays["0.0.resident"], arrays["0.0.cells"]
    assert len(resident) == -(-N_TOKENS // N_BATCH)
    settled = resident[WARM_UP:]
    # the median, as the allocator may once keep what it gave back before
    assert np.median(settled[APART:] - settled[:-APART]) <= GROWTH, resident
    assert np.ptp(settled) <= SPREAD, resident
    assert cells.max() == BUDGET + N_BATCH
