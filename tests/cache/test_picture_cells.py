"""Which cells of pictures and text are kept is what the reference says, with ages in tokens.

The pictures go through libmtmd and a projector; test_ordinals tries the cache with made-up embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retain_local import Llama
from retain_local.vision.source import read_image_file
from support.llamas import load, text
from support.pictures import write_png
from support.reference import Cache, Options, random_scores
from support.tiny_gates import random_gates, write_tiny_gates
from support.tiny_vision import TINY_VISION, write_tiny_vision

BUDGET, N_UBATCH = 96, 16
SIZES = [(300, 180), (60, 220), (120, 30)]


@pytest.fixture(scope="module", params=TINY_VISION)
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    folder = tmp_path_factory.mktemp("vision")
    vision = TINY_VISION[request.param]
    model, projector = write_tiny_vision(folder, vision)
    shape = vision.text
    gates = write_tiny_gates(
        folder / "gates.gguf", model, shape, random_gates(shape.n_layer, shape.n_embd, shape.n_head_kv)
    )
    n_ubatch = N_UBATCH if vision.is_causal else 64
    llm = load(model, mmproj=projector, gates=gates, budget=BUDGET, n_ubatch=n_ubatch, policy="gate")
    llm.images = [
        llm.projector.read(read_image_file(write_png(folder / f"{i}.png", *size, seed=i)), str(i))
        for i, size in enumerate(SIZES)
    ]
    yield llm
    llm.close()


def followed(llm: Llama, cache: Cache) -> None:
    """Give the reference every ubatch that is computed, with the log beta of its cells."""
    decode = llm._decode

    def follow(tokens: list[int]) -> None:
        start, layout = llm.n_tokens, llm.layout
        one = llm._layout.at(start)
        decode(tokens)
        stop = llm.n_tokens
        if one is None:
            positions = np.arange(len(tokens)) + layout.position(start)
        else:
            positions = one.picture.positions(one.position)[0, start - one.start : stop - one.start]
        log_beta = np.empty((cache.n_layer, len(tokens), cache.n_head_kv), np.float32)
        for il, layer in enumerate(llm.retention.layers):
            for head in range(cache.n_head_kv):
                ordinals, values = llm.retention.ordinals(layer, head), llm.retention.log_beta(layer, head)
                new = ordinals >= start
                log_beta[il, ordinals[new] - start, head] = values[new]
        cache.add(positions, log_beta)

    llm._decode = follow  # type: ignore[method-assign]


@settings(max_examples=20)
@given(
    parts=st.lists(st.one_of(st.integers(1, 50), st.sampled_from(["0", "1", "2"])), min_size=1, max_size=6),
    policy=st.sampled_from(["gate", "window", "random"]),
    budget=st.integers(24, BUDGET),
)
def test_kept_cells_equal_the_reference(llm: Llama, parts: list[int | str], policy: str, budget: int) -> None:
    prompt = [1]
    for i, part in enumerate(parts):
        prompt += llm.images[int(part)].tokens if isinstance(part, str) else llm.tokenize(text(part, i).encode(), False)
    llm.reset()
    llm.retention.set_budget(budget)
    llm.retention.policy = policy
    options = Options(BUDGET, llm.options.buffer, llm.options.n_ubatch, n_sink=llm.options.sinks, policy=policy)
    layers = llm.retention.layers  # of those that have cells in the pool the reference knows the numbers in order
    cache = Cache(len(layers), llm.retention.heads(layers[0]), options)
    if policy == "random":
        cache.score = lambda it: random_scores(it.options.seed, np.array(layers)[it.layer], it.head, it.ordinal)
    cache.options = replace(options, budget=budget)
    followed(llm, cache)
    try:
        llm.eval(prompt[: llm.n_ctx()])
    finally:
        del llm._decode
    assert llm.retention.stats().tokens_seen == cache.n_seen == len(prompt)
    for il, layer in enumerate(layers):
        for head in range(cache.n_head_kv):
            cells = (cache.layer == il) & (cache.head == head)
            assert np.sort(llm.retention.ordinals(layer, head)).tolist() == np.sort(cache.ordinal[cells]).tolist()
            assert np.sort(llm.retention.positions(layer, head)).tolist() == np.sort(cache.pos[cells]).tolist()
