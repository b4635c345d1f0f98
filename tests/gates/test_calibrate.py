"""Gates from a GGUF alone: what a cell is worth, the regression, and the command's stops and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import TinyFiles
from retain_local.errors import RetainError, UsageError
from retain_local.gates import read_sidecar
from retain_local.gates.calibrate.calibration import calibrate
from retain_local.gates.calibrate.documents import Document, Plan, cut, take_turns
from retain_local.gates.calibrate.fit import Fit, Setting
from retain_local.gates.calibrate.importance import TEXT_WEIGHT, LayerImportance
from retain_local.gates.calibrate.metric import OutputMetric, OutputMetrics
from retain_local.gates.calibrate.options import CalibrateOptions
from retain_local.gates.calibrate.reading import Reader
from retain_local.gates.calibrate.regression import RidgeSums
from retain_local.gates.calibrate.state import load_state, save_state, state_path
from retain_local.gates.calibrate.watch import Attention
from retain_local.gates.sidecar.forward import gate_output
from retain_local.models.gguf_header import read_header
from retain_local.models.model_file import read_model_file
from support.command_line import run
from support.tiny_models import TINY_MODELS

SMALL = {"tokens": 1024, "window": 512}
ONE_THREAD = {"n_threads": 1, "n_threads_batch": 1}


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, last: int, without: int | None = None) -> np.ndarray:
    """One query's output of every head [H, d_v] over the first cells; H_kv keys and values, [n, H_kv, d]."""
    seen = [i for i in range(last) if i != without]
    group = len(q) // k.shape[1]
    return np.stack([softmax(k[seen, h // group] @ q[h]) @ v[seen, h // group] for h in range(len(q))])


@pytest.mark.parametrize("piece, with_norm", [(7, False), (40, False), (7, True)])
def test_importance_is_what_an_eviction_changes(piece: int, with_norm: bool) -> None:
    """Against evicting each cell in turn and attending again, query by query."""
    rng = np.random.default_rng(0)
    n_text, n_repeat_at, n_cells, least_age, n = 20, 24, 10, 4, 34
    n_head, n_kv, d, n_embd = 4, 2, 3, 6
    q, k, v = rng.normal(size=(n, n_head, d)), rng.normal(size=(n, n_kv, d)), rng.normal(size=(n, n_kv, d))
    output = rng.normal(size=(n_head, n_embd, d))
    norm = rng.uniform(0.5, 2, size=n_embd) if with_norm else np.ones(n_embd)
    out = np.stack([attend(q[t], k, v, t + 1) for t in range(n)])
    hidden = rng.normal(size=(n, 5))

    expected = np.zeros((n_kv, n_cells))
    for i in range(n_cells):
        text = range(i + least_age, n_text)
        for queries, weight in ((text, TEXT_WEIGHT), (range(n_repeat_at, n), 1)):
            for t in queries:
                moved = attend(q[t], k, v, t + 1, without=i) - out[t]
                change = np.square(norm * np.einsum("hed,hd->he", output, moved)).sum(axis=1)
                if with_norm:
                    change /= np.square(np.einsum("hed,hd->e", output, out[t])).mean()
                expected[:, i] += weight * change.reshape(n_kv, -1).sum(axis=1) / len(queries)

    weighted = output * norm[:, None]
    metric = OutputMetric(
        np.einsum("hed,hef->hdf", weighted, weighted).astype(np.float32),
        output.transpose(1, 0, 2).reshape(n_embd, n_head * d).astype(np.float32) if with_norm else None,
    )
    sums = LayerImportance(metric, n_cells, n_text, n_repeat_at, least_age, block=1)
    for start in range(0, n, piece):
        rows = slice(start, start + piece)
        parts = [part[rows].astype(np.float32) for part in (hidden, q, k, v, out)]
        sums.add(Attention(*parts, scale=1.0, softcap=0.0, sinks=None))
    states, importance = sums.result()
    np.testing.assert_allclose(importance, expected, rtol=2e-3)
    np.testing.assert_allclose(states, hidden[:n_cells], rtol=1e-6)


@pytest.mark.parametrize("arch", TINY_MODELS)
def test_the_watch_sees_what_attention_computes(tiny: TinyFiles, arch: str) -> None:
    """Every architecture: softmax of the queries and keys that were seen, over the values, is the output that was seen."""
    seen: dict[int, list[Attention]] = {}
    with Reader(tiny.model(arch), 96, **ONE_THREAD) as reader:
        reader._watch.see = lambda il, attention: seen.setdefault(il, []).append(attention)
        reader.llm.eval(list(range(20, 52)))
        reader.llm.eval(list(range(30, 50)))
        reader._watch.raise_error()
        layers, sizes = reader.layers, reader._watch.sizes
    assert list(seen) == list(layers)
    assert all(len(sizes[il][0]) == 32 and (sizes[il][0] > 0).all() for il in layers[:-1])
    assert all(len(size) for size in sizes[layers[-1]])
    for ubatches in seen.values():
        k, v = (np.concatenate([getattr(one, name) for one in ubatches]) for name in ("k", "v"))
        for first, one in zip((0, 32), ubatches):
            if one.softcap or one.sinks is not None:
                continue
            assert one.hidden.shape == (len(one.q), TINY_MODELS[arch].n_embd)
            for t in range(len(one.q)):
                expected = attend(one.q[t] * one.scale, k, v, first + t + 1)
                np.testing.assert_allclose(one.out[t], expected, atol=2e-3 * np.abs(expected).max())


def test_the_stream_is_measured_as_the_next_norm_reads_it(tiny: TinyFiles) -> None:
    path = tiny.model("qwen3")
    with Reader(path, 96, **ONE_THREAD) as reader:
        watch = reader._watch
        watch.see = lambda il, attention: None
        reader.llm.eval(list(range(20, 52)))
        read = {il: np.concatenate(sizes) for il, sizes in watch.sizes.items()}
        parts = []
        for dimension in range(TINY_MODELS["qwen3"].n_embd):
            watch.readers = {
                il: np.eye(1, TINY_MODELS["qwen3"].n_embd, dimension, np.float32)[0] for il in reader.layers
            }
            watch.sizes.clear()
            reader.llm.reset()
            reader.llm.eval(list(range(20, 52)))
            parts.append({il: np.concatenate(sizes) for il, sizes in watch.sizes.items()})
    for il, norm in zip((0, 1), ("blk.1.attn_norm.weight", "output_norm.weight")):
        stream = np.stack([part[il] for part in parts], axis=1)
        np.testing.assert_allclose(read[il], np.linalg.norm(stream * values_of(path, norm), axis=1), rtol=1e-4)


def values_of(path: Path, name: str) -> np.ndarray:
    info = read_header(path).tensors[name]
    return np.fromfile(path, np.float32, info.n_bytes // 4, offset=info.offset).reshape(info.shape[::-1])


@pytest.mark.parametrize(
    "arch, il, has_norm, reader",
    [
        ("qwen3", 0, False, "blk.1.attn_norm"),
        ("qwen3", 1, False, "output_norm"),
        ("olmo2", 0, True, None),
        ("olmo2", 1, True, "output_norm"),
        ("glm4", 0, True, "blk.1.attn_norm"),
    ],
)
def test_output_metrics_are_products_of_the_projections(
    tiny: TinyFiles, arch: str, il: int, has_norm: bool, reader: str | None
) -> None:
    """With the norm that stands behind them, if there is one, and with the norm that reads the stream next."""
    shape, path = TINY_MODELS[arch], tiny.model(arch)
    weight = values_of(path, f"blk.{il}.attn_output.weight").reshape(shape.n_embd, shape.n_head, -1)
    metric = OutputMetrics(path, (il,)).of(il, *weight.shape[1:])
    out = np.random.default_rng(0).normal(size=(5, *weight.shape[1:])).astype(np.float32)
    divisor = np.square(np.einsum("ehd,nhd->ne", weight, out)).mean(axis=1)
    np.testing.assert_allclose(metric.divisor(out), divisor if has_norm else np.ones(5), rtol=1e-4)
    if has_norm:
        weight = weight * values_of(path, f"blk.{il}.post_attention_norm.weight").reshape(-1, 1, 1)
    if reader is not None:
        weight = weight * values_of(path, f"{reader}.weight").reshape(-1, 1, 1)
    np.testing.assert_allclose(metric.heads[2], weight[:, 2].T @ weight[:, 2], rtol=1e-4, atol=1e-5)


def test_ridge_sums_are_a_regression_of_all_samples() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(300, 8)).astype(np.float32) * 5, rng.normal(size=(300, 2)).astype(np.float32)
    sums = RidgeSums(8, [2])
    for rows in (slice(0, 100), slice(100, 130), slice(130, 300)):
        sums.add(0, x[rows], y[rows])
    [(weight, bias)] = sums.solve(1e-9)
    expected = np.linalg.lstsq(np.c_[x, np.ones(300)], y, rcond=None)[0]
    np.testing.assert_allclose(np.c_[weight, bias], expected.T, atol=1e-4)
    [(shrunk, _)] = sums.solve(10.0)
    assert np.abs(shrunk).sum() < np.abs(weight).sum() / 2


@pytest.mark.parametrize("n_features", [0, 512])
def test_gates_order_cells_by_worth_and_age(n_features: int) -> None:
    """Where log importance is linear in the hidden state, age·log beta has the order of importance / age^d."""
    rng = np.random.default_rng(2)
    slope = rng.normal(size=(6, 2))
    hidden = rng.normal(size=(4000, 6)).astype(np.float32)
    importance = np.exp(hidden @ slope - 9).T
    fit = Fit(Setting(6, (1,), (2,), 3, n_features))
    fit.add([(hidden, importance)])
    gates = fit.gates(ridge=1e-6, decay=2.0).checked()
    assert gates.layer_indices == (1,) and gates.n_layer == 3
    age = rng.integers(1, 5000, 500)
    log_beta = gate_output(gates, 1, hidden[:500])
    score, worth = age[:, None] * log_beta, np.log(importance.T[:500]) - 2 * np.log(age[:, None])
    ranks = [np.argsort(np.argsort(values.ravel())) for values in (score, worth)]
    assert np.corrcoef(*ranks)[0, 1] > (0.9999 if n_features == 0 else 0.98)


def test_documents_are_cut_and_taken_in_turn() -> None:
    documents = cut({"a": list(range(100)), "b": list(range(25))}, 11, [7])
    assert [len(found) for found in documents.values()] == [10, 2]
    assert documents["b"][1].tokens == [7, *range(10, 20)]
    assert [document.kind for document in take_turns(documents, 5)] == ["a", "b", "a", "b", "a"]
    plan = Plan(512, 64)
    tokens = plan.tokens(Document("a", list(range(1000, 1512))), [1, 2, 3])
    assert len(tokens) == plan.n_all == 512 + 64 + 256
    assert tokens[512:515] == [1, 2, 3] and tokens[515:] == list(range(1000, 1000 + 61 + 256))


def make(tiny: TinyFiles, out: Path, texts: dict[str, str] | None = None, arch: str = "qwen3", **changes: Any) -> Any:
    progress = changes.pop("on_progress", None)
    options = CalibrateOptions(**{**SMALL, **changes})
    return calibrate(read_model_file(tiny.model(arch)), out, texts or {}, options, "f32", progress, **ONE_THREAD)


def test_a_calibration_that_was_stopped_goes_on_to_the_same_gates(tmp_path: Path, tiny: TinyFiles) -> None:
    whole = make(tiny, tmp_path / "whole.gguf")
    assert whole.n_documents == 2 and set(whole.correlation) == {"prose", "chat", "code", "lists"}

    out = tmp_path / "stopped.gguf"

    def stop_in_second(label: str, done: int, total: int) -> None:
        if done > 900:  # a document is read as 832 tokens
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tiny, out, on_progress=stop_in_second)
    assert state_path(out).exists() and not out.exists()
    again = make(tiny, out)
    assert again.n_resumed == 1 and not state_path(out).exists()
    for (name, one), (_, other) in zip(whole.sidecar.gates.tensors(), again.sidecar.gates.tensors()):
        np.testing.assert_array_equal(one, other, err_msg=name)


def test_a_state_of_something_else_is_not_used(tmp_path: Path, tiny: TinyFiles) -> None:
    out = tmp_path / "out.gguf"
    setting = Setting(128, (0, 1), (2, 2), 2)
    save_state(state_path(out), "another model's", 1, Fit(setting))
    assert make(tiny, out).n_resumed == 0
    state_path(out).write_bytes(b"PK no archive")
    assert make(tiny, out).n_resumed == 0


def test_no_sums_are_taken_from_a_state_that_lacks_something(tmp_path: Path) -> None:
    setting = Setting(4, (0,), (1,), 1)
    full, fit = Fit(setting), Fit(setting)
    full.add([(np.ones((3, 4), np.float32), np.ones((1, 3)))])
    np.savez(tmp_path / "state.npz", key=np.array("mine"), **full.arrays())  # type: ignore[arg-type]
    assert load_state(tmp_path / "state.npz", "mine", fit) == 0
    assert not any(values.any() for values in fit.arrays().values())


def test_a_text_that_is_too_short(tmp_path: Path, tiny: TinyFiles) -> None:
    with pytest.raises(RetainError, match="calibrating needs"):
        make(tiny, tmp_path / "out.gguf", {"notes.txt": "far too short"})
    assert list(tmp_path.iterdir()) == []


def test_fewer_tokens_than_a_piece_of_text_has(tmp_path: Path, tiny: TinyFiles) -> None:
    """Whatever the texts are: it is not they that are too short."""
    for texts in ({}, {"notes.txt": "long enough " * 1000}):
        with pytest.raises(
            UsageError, match="tokens is 64, and a piece of text has .*: give more, or a smaller --window"
        ):
            make(tiny, tmp_path / "out.gguf", texts, tokens=64)
    assert list(tmp_path.iterdir()) == []


def test_exactly_one_piece_of_text(tmp_path: Path, tiny: TinyFiles) -> None:
    """The model puts one token before a text, so that a piece of 512 takes 511 others."""
    made = make(tiny, tmp_path / "out.gguf", tokens=511)
    assert made.n_documents == 1 and len(made.held) == 4
    with pytest.raises(UsageError, match="tokens is 510, and a piece of text has 512"):
        make(tiny, tmp_path / "out.gguf", tokens=510)


def test_the_kind_mlp(tmp_path: Path, tiny: TinyFiles) -> None:
    made = make(tiny, tmp_path / "out.gguf", kind="mlp", features=64)
    assert (made.sidecar.gates.variant, made.sidecar.gates.n_ff, made.sidecar.gates.activation) == ("rg", 64, "relu")


def test_the_command(tmp_path: Path, tiny: TinyFiles) -> None:
    out = tmp_path / "made.gguf"
    arguments = (
        "gates",
        "calibrate",
        tiny.model("llama"),
        "--out",
        out,
        "--tokens",
        512,
        "--window",
        512,
        "--threads",
        1,
    )
    done = run(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert "held-out text" in done.stdout and "prose" in done.stdout
    gates = read_sidecar(out).gates
    assert gates.variant == "linear" and not gates.is_static
    again = run(tmp_path, *arguments)
    assert again.returncode == 1 and again.stderr.count("\n") == 1 and "--force" in again.stderr
    model = tmp_path / "model.gguf"
    model.write_bytes(tiny.model("llama").read_bytes())
    lost = run(tmp_path, "gates", "calibrate", model, "--out", "model.gguf", "--force")
    assert lost.returncode == 2 and "model.gguf is the base model, which would be lost" in lost.stderr
    assert model.read_bytes() == tiny.model("llama").read_bytes()
    missing = run(tmp_path, *arguments, "--force", "--text", tmp_path / "none.txt")
    assert missing.returncode == 1 and missing.stderr.count("\n") == 1
