"""Models with quantised weights, through every buffer type that the CPU has for them.

Two references: the same weights as float32 numbers, read by gguf-py, and stock llama.cpp on the same file. A product
rounds its activations to 8 bits, and whatever differs in the last bit of a float before may be rounded to the next of
these steps. So two computations of one quantised model differ by as much as each differs from the float32 one, and
only single products can be compared sharply.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from retain_local.bindings.capture import Capture
from support import ggml
from support.libraries import PATCHED, require_stock
from support.llama_session import Model
from support.products import Product, ProductCapture
from support.quantised import MIXED, WEIGHT_TYPES, dequantised, quantise, rounded
from support.reference import Cache, Options
from support.retained import RetainedSession, assert_same_cells, retain_fields
from support.tiny_gates import constant_gates, random_gates, write_tiny_gates
from support.tiny_models import N_VOCAB, WRITTEN, TinyModel, write_tiny_model
from support.worker import run_worker

STOCK = require_stock()

# Rows are whole blocks of every type, and the rows of a layer's weights a multiple of 32, which every buffer type takes.
DENSE = TinyModel("llama", n_layer=2, n_embd=256, head_size=64, n_ff=512, seed=5)
MOE = replace(DENSE, arch="qwen3moe", n_ff=256, qk_norm="head", ffn="moe")

TOKENS = [1, *np.random.default_rng(1).integers(3, N_VOCAB, 239).tolist()]
STEPS = [("decode", TOKENS)]
N_CTX = 512
EVICTING = {"budget": 64, "buffer": 16}

# What rounding its activations costs a product, as a share of its outputs' standard deviation. Measured: 5e-3 with
# blocks of 32 and 7e-3 with blocks of 256; up to 1e-2 and 1.9e-2 where a few inputs are far larger than the others, as
# behind the FFN's activation.
COST = {"q8_0": 1.2e-2, "q8_1": 1.2e-2, "q8_k": 2.5e-2}
# What a product may differ from the reference that rounds as it does; measured: 2e-6. Q4_1 keeps the sum of a block of
# activations in f16, which the reference does not; measured: 7.5e-3.
SHARP, SHARP_Q4_1 = 1e-5, 1e-2
SHARP_ROWS = 0.95  # of the rows; a few have a number that was rounded to the next step
# Of a whole model nine products come one after the other: four in each of two layers, and the output. Their errors add
# up like independent ones, to 0.016 and 0.021; measured: 0.012 to 0.019.
LOGITS = 0.03

# every type of weights in every place that this machine has for it, and a file of mixed types
PLACEMENTS = [(name, place) for name in WEIGHT_TYPES for place in ggml.buffer_types(GGMLQuantizationType[name])]
FILES = [*PLACEMENTS, *(("Q4_K_M", place) for place in ggml.buffer_types(GGMLQuantizationType.Q4_K))]


class QuantisedFiles:
    """Makes tiny models with quantised weights on first use, and the same with their weights as float32."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def source(self, shape: TinyModel) -> Path:
        path = self.folder / f"{shape.arch}.gguf"
        return path if path.exists() else write_tiny_model(path, shape)

    def quantised(self, shape: TinyModel, name: str) -> Path:
        path = self.folder / f"{shape.arch}.{name}.gguf"
        return path if path.exists() else quantise(self.source(shape), path, WEIGHT_TYPES.get(name, MIXED))

    def dequantised(self, shape: TinyModel, name: str) -> Path:
        path = self.folder / f"{shape.arch}.{name}.f32.gguf"
        tensors = dequantised(self.quantised(shape, name))
        return path if path.exists() else write_tiny_model(path, shape, tensors=tensors)

    def gates(self, shape: TinyModel, name: str, is_constant: bool) -> Path:
        """Gates that value each head's tokens alike, or random ones."""
        path = self.folder / f"{shape.arch}.{name}.{is_constant}.gates.gguf"
        if is_constant:
            biases = np.linspace(1, 5, shape.n_layer * shape.n_head_kv).reshape(shape.n_layer, shape.n_head_kv)
            gates = constant_gates(shape.n_embd, biases)
        else:
            gates = random_gates(shape.n_layer, shape.n_embd, shape.n_head_kv)
        return write_tiny_gates(path, self.quantised(shape, name), shape, gates)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> QuantisedFiles:
    return QuantisedFiles(tmp_path_factory.mktemp("quantised"))


def decode(path: Path, retain: dict, place: str | None = None) -> np.ndarray:
    """Logits of `TOKENS` for the tokens that the model writes, [n, len(WRITTEN)]."""
    model = Model(path, place)
    with RetainedSession(model, retain, cell_type="f32", n_ctx=N_CTX, n_ubatch=32) as session:
        logits = session.decode(TOKENS)[:, WRITTEN]
    model.close()
    return logits


def difference(values: np.ndarray, reference: np.ndarray) -> float:
    """Root mean square of the difference, in standard deviations of the reference."""
    return float(np.sqrt(np.mean((values - reference) ** 2)) / reference.std())


def expected(product: Product, weights: np.ndarray, activations: str | None) -> np.ndarray:
    """The outputs of a product by NumPy in float64; its inputs are rounded to a type of activations, or taken as is."""
    inputs = product.inputs if activations is None else rounded(product.inputs, activations)
    outputs = np.empty(product.outputs.shape)
    for expert, matrix in enumerate(weights.reshape(-1, *weights.shape[-2:])):
        rows = product.expert == expert
        outputs[rows] = inputs[rows].astype(np.float64) @ matrix.T.astype(np.float64)
    return outputs


@pytest.mark.parametrize("name, place", PLACEMENTS)
@pytest.mark.parametrize("shape", [DENSE, MOE], ids=["dense", "moe"])
def test_every_product_is_that_of_the_dequantised_weights(
    files: QuantisedFiles, shape: TinyModel, name: str, place: str
) -> None:
    """While a prompt is read and tokens come one by one, before evictions and after."""
    path = files.quantised(shape, name)
    moved = ggml.weights_of(path, place)
    assert moved or place == ggml.PLAIN
    capture, model = ProductCapture(), Model(path, place)
    with RetainedSession(model, {**EVICTING, "policy": "window"}, capture=capture, n_ubatch=32, n_ctx=N_CTX) as session:
        for tokens in (TOKENS[:70], TOKENS[70:71], TOKENS[71:72], TOKENS[72:75], TOKENS[75:]):
            session.decode(tokens)
        assert session.stats().n_evictions >= 3
    model.close()

    weights, activations = dict(dequantised(path)), WEIGHT_TYPES[name].activations
    multiplied = {product.weight for product in capture.products}
    assert multiplied == {n for n, array in weights.items() if array.ndim > 1} - {"token_embd.weight"}
    assert {product.weight for product in capture.products if product.buffer == place} == set(moved)
    for weight in multiplied:
        if weight.endswith("ffn_gate_inp.weight"):  # chooses the experts; stays in f32
            continue
        products = [product for product in capture.products if product.weight == weight]
        outputs = np.concatenate([product.outputs for product in products])
        exact = np.concatenate([expected(product, weights[weight], None) for product in products])
        rounds = np.concatenate([expected(product, weights[weight], activations) for product in products])
        wrong = np.abs(outputs - rounds).max(1) / exact.std()
        assert np.mean(wrong <= (SHARP_Q4_1 if name == "Q4_1" else SHARP)) >= SHARP_ROWS, weight
        assert wrong.max() <= COST[activations], weight
        assert COST[activations] / 4 < difference(outputs, exact) <= COST[activations], weight


@pytest.mark.parametrize("name, place", FILES)
def test_logits_are_those_of_the_dequantised_model(files: QuantisedFiles, name: str, place: str) -> None:
    """With everything kept, and under two policies that keep the same cells of both models."""
    path, reference = files.quantised(DENSE, name), files.dequantised(DENSE, name)
    for retain in (
        {"budget": N_CTX, "policy": "window"},
        {**EVICTING, "policy": "window", "n_sink": 4},
        {**EVICTING, "gates": files.gates(DENSE, name, is_constant=True)},
    ):
        assert difference(decode(path, retain, place), decode(reference, retain)) <= LOGITS, retain


@pytest.mark.parametrize("name, place", FILES)
def test_gates_keep_what_they_value(files: QuantisedFiles, name: str, place: str) -> None:
    """Log betas are those that the float32 model has for the same inputs, and the cells those of the reference cache."""
    gates = files.gates(DENSE, name, is_constant=False)
    # the first layer's gates read the embedding, which no product has touched yet
    wanted = log_betas(files.dequantised(DENSE, name), gates)[0]
    np.testing.assert_allclose(log_betas(files.quantised(DENSE, name), gates, place)[0], wanted, rtol=1e-4, atol=1e-6)
    assert wanted.std() > 0.1


def log_betas(path: Path, gates: Path, place: str | None = None) -> np.ndarray:
    """Log betas of `TOKENS` under evictions, which are compared with those of the reference cache; [L, n, H] f32."""
    options = Options(**EVICTING, n_ubatch=32)
    capture, cache = Capture({"retention_log_beta": DENSE.n_head_kv}), Cache(DENSE.n_layer, DENSE.n_head_kv, options)
    retain, model = {**retain_fields(options), "gates": gates}, Model(path, place)
    found = []
    with RetainedSession(model, retain, capture=capture, n_ubatch=options.n_ubatch, n_ctx=N_CTX) as session:
        for start in range(0, len(TOKENS), 40):
            session.decode(TOKENS[start : start + 40])
            found.append(capture.take("retention_log_beta", DENSE.n_layer))
            cache.extend(found[-1])
            assert_same_cells(session, cache)
        assert session.stats().n_evictions >= 3
    model.close()
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize("name, place", FILES)
def test_same_logits_as_stock(files: QuantisedFiles, tmp_path: Path, name: str, place: str) -> None:
    path = files.quantised(DENSE, name)
    wanted = decode(files.dequantised(DENSE, name), {"budget": N_CTX})
    # stock's flash attention rounds f32 cells to f16
    context = {"cell_type": "f32", "n_ctx": N_CTX, "flash_attn": False}
    contexts = [{**context, "n_ubatch": 512, "n_threads": 1}, {**context, "n_ubatch": 32, "n_threads": 2}]
    stock, ours = (
        run_worker(
            tmp_path, path, [{"retain": retain, "context": c, "steps": STEPS} for c in contexts], libraries, place
        )
        for retain, libraries in ((None, STOCK), ({"budget": N_CTX, "policy": "window"}, PATCHED))
    )
    for run in range(len(contexts)):
        theirs, own = (side[f"{run}.0.logits"][:, WRITTEN] for side in (stock, ours))
        # attention over one cell is that cell, so that nothing is rounded otherwise for the first token
        np.testing.assert_array_equal(own[0], theirs[0])
        assert difference(own, theirs) <= LOGITS
        assert difference(theirs, wanted) <= LOGITS
