"""Loading `Llama` for tests, the same way everywhere."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

# one thread: shared machines make a second one wait
DEFAULTS = {
    "n_ctx": 1024,
    "n_ubatch": 32,
    "n_batch": 64,
    "n_threads": 1,
    "n_threads_batch": 1,
    "type_k": "f32",
    "type_v": "f32",
}


def load(path: Path, **options: Any) -> Any:
    """A `retain_local.Llama` with options that suit tiny models."""
    from retain_local import Llama

    return Llama(path, **(DEFAULTS | options))


def text(n: int, seed: int = 0) -> str:
    """n random lower-case letters and spaces: a character is a token of a tiny model."""
    return "".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyz ", k=n))


def prompt(llm: Any, n: int, seed: int = 0) -> list[int]:
    """n random tokens that begin as a text does."""
    return llm.tokenize(text(n + 2, seed).encode(), add_bos=True)[:n]


def greedy(llm: Any, tokens: list[int], n: int) -> list[int]:
    """The n likeliest tokens after a prompt."""
    generator = llm.generate(tokens, temp=0.0)
    found = [next(generator) for _ in range(n)]
    generator.close()
    return found


def kept(llm: Any) -> list[list[int]]:
    """Sorted positions of every stream."""
    retention = llm.retention
    return [
        np.sort(retention.positions(layer, head)).tolist()
        for layer in retention.layers
        for head in range(retention.heads(layer))
    ]
