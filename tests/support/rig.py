"""A small model with gates, plans for it drawn by hypothesis, and the comparison with the reference cache.

The reference gets the log betas that llama.cpp computed, taken through its evaluation callback, so positions and log
betas must agree to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from retain_local.bindings.capture import Capture
from support.llama_session import Model
from support.reference import SCOPES, Cache, Options, Range
from support.retained import RetainedSession, assert_same_cells, retain_fields
from support.tiny_gates import constant_gates, equal_gates, random_gates, static_gates, write_tiny_gates
from support.tiny_models import N_VOCAB, TinyModel, write_tiny_model

SMALL = TinyModel("llama", n_layer=3, n_embd=64, n_head=4, n_head_kv=2, n_ff=64)
N_BATCH = 64
N_CTX = 1024

# uneven: some heads score equally at equal positions, and some differ by the last bit of a float32, while two others
# make the budget end among them; saturated: beta is 1 in float32, so all scores are equal
# static equal: all scores are equal, whatever the age
GATES = (
    "rg10 tied", "rg10 untied", "rg", "uneven", "saturated",
    "static linear", "static mlp", "static fast_kvzip", "static equal",
)  # fmt: skip
WINDOW = 12  # of the static gates but those of equal scores
NEAR = np.nextafter(np.float32(-3), np.float32(-4))
UNEVEN = np.array([[1, 4], [-3, NEAR], [NEAR, -3]], np.float32)


@dataclass
class Rig:
    """A small model and its sidecars, loaded once, and sessions of it that capture what the reference needs."""

    model: Model
    gates: dict[str, Path]

    def session(self, options: Options, gates: str | None = "rg10 tied", **context) -> RetainedSession:
        retain = retain_fields(options)
        if gates is not None:
            retain["gates"] = self.gates[gates]
        capture = Capture({"retention_log_beta": SMALL.n_head_kv, "attn_norm": SMALL.n_embd})
        defaults = {"n_ctx": N_CTX, "n_batch": N_BATCH}
        return RetainedSession(self.model, retain, capture=capture, n_ubatch=options.n_ubatch, **defaults, **context)


def open_rig(folder: Path) -> Rig:
    """Make the model and its sidecars in a folder, and load it."""
    model_path = write_tiny_model(folder / "m.gguf", SMALL)
    sizes = SMALL.n_layer, SMALL.n_embd, SMALL.n_head_kv
    kinds = {
        "rg10 tied": random_gates(*sizes),
        "rg10 untied": random_gates(*sizes, tied=False),
        "rg": random_gates(*sizes, variant="rg", tied=False),
        "uneven": constant_gates(SMALL.n_embd, UNEVEN),
        "saturated": constant_gates(SMALL.n_embd, np.full_like(UNEVEN, 200)),
        **{f"static {form}": static_gates(*sizes, form, window=WINDOW) for form in ("linear", "mlp", "fast_kvzip")},
        "static equal": equal_gates(SMALL.n_layer, SMALL.n_embd, SMALL.n_head_kv),
    }
    assert tuple(kinds) == GATES
    gates = {
        kind: write_tiny_gates(folder / f"{i}.gates.gguf", model_path, SMALL, gates)
        for i, (kind, gates) in enumerate(kinds.items())
    }
    return Rig(Model(model_path), gates)


def cache_for(options: Options) -> Cache:
    return Cache(SMALL.n_layer, SMALL.n_head_kv, options)


def advance(session: RetainedSession, cache: Cache, tokens: list[int]) -> None:
    """Decode tokens as one batch, give the reference their log betas, and compare everything that must agree."""
    session.decode(tokens)
    if session.capture.values:
        cache.extend(session.capture.take("retention_log_beta", SMALL.n_layer))
        session.capture.values.clear()
    assert_same_cells(session, cache)
    assert_within_budget(session, cache)


def assert_within_budget(session: RetainedSession, cache: Cache) -> None:
    """The cap of the pool and the rule of eviction, from what the library says about itself."""
    stats = session.stats()
    assert stats.n_cells_max == cache.n_max
    assert stats.n_cells <= stats.n_cells_peak <= cache.n_max
    assert stats.n_seen == cache.n_seen
    assert stats.n_evictions == cache.n_evictions
    assert stats.n_evicted == cache.n_seen * cache.n_cell_lists - cache.n_cells


@dataclass
class Plan:
    """A run: how the cache is set up, the batches that come in, and ranges pinned before some of them."""

    options: Options
    gates: str
    batches: list[int]
    pins: dict[int, Range] = field(default_factory=dict)
    seed: int = 0

    def tokens(self) -> list[list[int]]:
        rng = np.random.default_rng(self.seed)
        return [rng.integers(3, N_VOCAB, n).tolist() for n in self.batches]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    n_sink, n_recent = draw(st.integers(0, 4)), draw(st.integers(0, 8))
    pins = draw(st.dictionaries(st.integers(0, 5), st.tuples(st.integers(0, 80), st.integers(1, 6)), max_size=2))
    n_pinned = sum(n for _, n in pins.values())
    budget = n_sink + n_recent + n_pinned + draw(st.integers(1, 60))
    gates = draw(st.sampled_from(GATES))
    is_static = gates.startswith("static")
    options = Options(
        budget=budget,
        buffer=draw(st.integers(0, 24)),
        n_ubatch=draw(st.integers(1, 40)),
        lookahead=draw(st.sampled_from([1, 1, 2, 3, 16, 128])),
        n_sink=n_sink,
        n_recent=n_recent,
        scope=draw(st.sampled_from(SCOPES)),
        min_per_head=draw(st.integers(0, min(8, budget))),
        is_static=is_static,
        window=WINDOW if is_static and gates != "static equal" else 0,
    )
    return Plan(
        options=options,
        gates=gates,
        batches=draw(st.lists(st.integers(1, N_BATCH), min_size=3, max_size=10)),
        pins={i: (start, start + n) for i, (start, n) in pins.items()},
        seed=draw(st.integers(0, 1000)),
    )
