"""Static gates, gates on some layers, and the forms of version 2: written, read, and computed as PyTorch does."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.nn import functional as F

from retain_local.gates import (
    GateFileError,
    GateInfo,
    GateSet,
    LayerGate,
    Linear,
    describe_sidecar,
    gate_output,
    read_sidecar,
    sidecar_table,
    write_sidecar,
)
from support.tiny_gates import random_gates, static_gates
from support.wrong_sidecars import version_1, version_2, write_changed_sidecar

FORMS = {"linear": "linear", "mlp": "rg", "fast_kvzip": "fast_kvzip"}  # and their variants
N_EMBD = 96


def gates_of(form: str, **options) -> GateSet:
    return static_gates(6, N_EMBD, (2, 1, 4), form, indices=(1, 3, 4), **options)


@pytest.mark.parametrize("weight_type", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_comes_back(tmp_path: Path, form: str, weight_type: str) -> None:
    gates = gates_of(form, window=128)
    write_sidecar(tmp_path / "a.gguf", gates, GateInfo("llama"), weight_type)
    found = read_sidecar(tmp_path / "a.gguf")
    assert (found.gates.variant, found.gates.score_kind, found.gates.window) == (FORMS[form], "static", 128)
    assert (found.gates.layer_indices, found.gates.heads) == ((1, 3, 4), (2, 1, 4))
    assert (found.gates.n_layer, found.gates.n_embd) == (6, N_EMBD)
    expected = dict(gates.tensors())
    assert list(found.types) == list(expected)
    matrices = {"in.weight", "score.weight", "q.weight", "k.weight"}
    for name, array in found.gates.tensors():
        is_matrix = name.rpartition("_")[2] in matrices
        assert found.types[name] == (weight_type if is_matrix else "f32")
        step = {"f32": 2**-24, "f16": 2**-11, "q8_0": 1 / 254 + 2**-11}[found.types[name]]
        assert (np.abs(array - expected[name]) <= step * np.abs(expected[name]).max(axis=-1, keepdims=True)).all()


def linear(part: Linear, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, torch.tensor(part.weight), torch.tensor(part.bias))


def in_torch(gates: GateSet, at: int, h: torch.Tensor) -> torch.Tensor:
    """The output of a gate as the authors' modules compute it."""
    gate = gates.layers[at]
    if isinstance(gate, LayerGate):
        x = h if gate.hidden is None else F.gelu(linear(gate.hidden, h))
        return linear(gates.final(at), x)
    n_tokens, n_head, n_key = len(h), gate.n_head_kv, gate.n_key

    def norm(x: torch.Tensor, weight: np.ndarray) -> torch.Tensor:
        return F.rms_norm(x, (n_key,), torch.tensor(weight), 1e-6)

    q = norm(linear(gate.q, h).view(n_tokens, n_head, gate.n_group, n_key), gate.q_norm)
    k = norm(F.linear(h, torch.tensor(gate.k)).view(n_tokens, n_head, 1, n_key), gate.k_norm)
    base = torch.tensor(gate.base).view(n_head, gate.n_base, n_key)
    own = (q * k).sum(-1) / n_key**0.5 + torch.tensor(gate.bias).view(n_head, gate.n_group)
    others = torch.einsum("thgd,hsd->thgs", q, base) / n_key**0.5
    return (1 / (1 + torch.exp(others - own[..., None]).sum(-1))).mean(-1)


@pytest.mark.parametrize("form", FORMS)
def test_the_output_is_the_formula(form: str) -> None:
    gates = gates_of(form)
    h = np.random.default_rng(0).standard_normal((7, N_EMBD))
    for at, il in enumerate(gates.layer_indices):
        expected = in_torch(gates, at, torch.tensor(h)).numpy()
        np.testing.assert_allclose(gate_output(gates, il, h), expected, rtol=1e-9)
        assert expected.shape == (7, gates.heads[at]) and np.ptp(expected) > 0.1
    with pytest.raises(GateFileError, match="layer 2 has no gate"):
        gate_output(gates, 2, h)


def test_a_linear_gate_can_give_log_beta() -> None:
    gates = replace(gates_of("linear"), score_kind="decay")
    h = np.random.default_rng(0).standard_normal((7, N_EMBD))
    u = gate_output(gates_of("linear"), 3, h)
    np.testing.assert_allclose(gate_output(gates, 3, h), -np.log1p(np.exp(-u)), rtol=1e-9)


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        (replace(random_gates(2, 32, 2), score_kind="static"), "rg10 give scores that decay"),
        (replace(gates_of("fast_kvzip"), score_kind="decay"), "fast_kvzip give static scores"),
        (replace(gates_of("linear"), score_kind="best"), "'best' is not one of decay, static"),
        (replace(gates_of("linear"), window=-1), "window of -1 cells"),
        (replace(gates_of("linear"), indices=(1, 3)), "2 layers are named for 3 gates"),
        (replace(gates_of("linear"), indices=(1, 4, 3)), "not ascending"),
        (replace(gates_of("linear"), block_count=4), "not among the model's 4"),
        (replace(gates_of("linear"), score=Linear(np.zeros((2, N_EMBD)), np.zeros(2))), "of their own|either tied"),
        (replace(gates_of("linear"), layers=(*gates_of("linear").layers[:2], *gates_of("mlp").layers[:1])), "variant linear"),
        (replace(gates_of("linear"), layers=(*gates_of("linear").layers[:2], *gates_of("fast_kvzip").layers[:1])), "variant linear"),
        (replace(gates_of("fast_kvzip"), layers=(*gates_of("fast_kvzip").layers[:2], *gates_of("mlp").layers[:1])), "fast_kvzip"),
        (
            replace(gates_of("fast_kvzip"), layers=tuple(replace(g, bias=g.bias[:-1]) for g in gates_of("fast_kvzip").layers)),
            "shape|sizes",
        ),
    ],
)  # fmt: skip
def test_inconsistent_gates_are_not_written(tmp_path: Path, gates: GateSet, message: str) -> None:
    with pytest.raises(GateFileError, match=message):
        write_sidecar(tmp_path / "a.gguf", gates, GateInfo("llama"))
    assert list(tmp_path.iterdir()) == []


def test_both_versions_are_read(tmp_path: Path) -> None:
    for name, metadata in (("1", version_1()), ("2", version_2())):
        write_changed_sidecar(tmp_path / name, metadata, {})
    first, second = (read_sidecar(tmp_path / name).gates for name in "12")
    assert first.layer_indices == second.layer_indices == (0, 1, 2) and first.heads == second.heads == (2, 2, 2)
    assert first.score_kind == second.score_kind == "decay" and first.window == second.window == 0
    for (name, array), (other, same) in zip(first.tensors(), second.tensors(), strict=True):
        assert name == other
        np.testing.assert_array_equal(array, same)


@pytest.mark.parametrize("form", FORMS)
def test_inspection(tmp_path: Path, form: str) -> None:
    write_sidecar(tmp_path / "a.gguf", gates_of(form, window=128), GateInfo("llama"))
    description = describe_sidecar(tmp_path / "a.gguf")
    assert (description["variant"], description["score_kind"]) == (FORMS[form], "static")
    assert (description["gated_layers"], description["head_count_kv"]) == ([1, 3, 4], [2, 1, 4])
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(sidecar_table(description))
    text = console.export_text()
    for fact in ("static", "newest 128 cells", "3 of 6 layers", "1 to 4 KV heads"):
        assert fact in text
