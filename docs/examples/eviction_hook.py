"""Decide in Python which cells stay: here, those of every fourth token and the newest.

python docs/examples/eviction_hook.py [MODEL]
"""

from __future__ import annotations

import sys

import numpy as np

from retain_local import Llama
from retain_local.paths import BUNDLED_MODEL

TEXT = "The garden was quiet that morning, and nobody had seen the letter on the table. " * 12


def every_fourth(
    layer: np.ndarray, head: np.ndarray, pos: np.ndarray, log_beta: np.ndarray, age: np.ndarray
) -> np.ndarray:
    """Scores of all cells, [n_cells]: the highest stay. Ties go to the newer token."""
    return np.where(pos % 4 == 0, 1.0, 0.0) + np.where(age <= 16, 2.0, 0.0)


def main(model: str) -> None:
    llm = Llama(model, budget=64, buffer=16, n_ubatch=16, n_ctx=512, sinks=0)
    llm.retention.set_scorer(every_fourth)
    llm.create_completion(TEXT, max_tokens=1, temperature=0)
    kept = np.sort(llm.retention.positions(layer=llm.retention.layers[0], head=0))
    seen = llm.retention.stats().tokens_seen
    print(f"{len(kept)} of {seen} tokens are kept in the first head of the first layer: {kept.tolist()}")
    llm.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(BUNDLED_MODEL))
