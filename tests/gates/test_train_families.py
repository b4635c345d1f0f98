"""Training gates: one mechanism reads every family of models, and says no to those that it cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from retain_local.errors import RetainError
from retain_local.gates.sidecar.forward import gate_output
from retain_local.gates.train.base import BaseModel
from retain_local.gates.train.modules import RetentionGates
from support.tiny_bases import FAMILIES, PARTLY_FULL, REFUSED, tiny_base

T = 24


def make_ids() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids = torch.randint(300, (2, T), generator=torch.Generator().manual_seed(3))
    return ids, torch.arange(T).expand(2, T), torch.zeros(2, T, dtype=torch.long)


def make_gates(base: BaseModel, variant: str, tied: bool, bias: float) -> RetentionGates:
    torch.manual_seed(5)
    return RetentionGates(base.n_layer, base.n_embd, base.n_head_kv, 32, variant, tied, "silu", bias)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_says_what_it_says_unpatched(family: str) -> None:
    ids, positions, documents = make_ids()
    with torch.no_grad():
        expected = tiny_base(FAMILIES[family])(input_ids=ids).logits
        base = BaseModel(tiny_base(FAMILIES[family]))
        hidden, log_betas = base.hidden(ids, positions, documents)
    torch.testing.assert_close(base.logits(hidden), expected, rtol=1e-4, atol=1e-4)
    assert log_betas == []


@pytest.mark.parametrize("family", FAMILIES)
def test_documents_of_a_row_do_not_see_each_other(family: str) -> None:
    ids, positions, documents = make_ids()
    base = BaseModel(tiny_base(FAMILIES[family]))
    gates = make_gates(base, "rg10", True, 1.0)
    packed_positions, packed_documents = positions.clone(), documents.clone()
    packed_positions[:, 10:] -= 10
    packed_documents[:, 10:] = 1
    with torch.no_grad():
        packed, _ = base.hidden(ids, packed_positions, packed_documents, gates)
        alone, _ = base.hidden(ids[:, 10:], positions[:, : T - 10], documents[:, 10:], gates)
        one, _ = base.hidden(ids, positions, documents, gates)
    torch.testing.assert_close(packed[:, 10:], alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(packed[:, 10:], one[:, 10:], atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant, tied", [("rg10", True), ("rg10", False), ("rg", False)])
def test_gates_read_what_the_projections_read(family: str, variant: str, tied: bool) -> None:
    ids, positions, documents = make_ids()
    base = BaseModel(tiny_base(FAMILIES[family]))
    gates = make_gates(base, variant, tied, 1.0)
    read: list[np.ndarray] = []
    for layer in base.layers:
        projection = next(module for name, module in layer.named_children() if name in ("q_proj", "qkv_proj"))
        projection.register_forward_hook(lambda module, args, output: read.append(args[0].numpy()))
    with torch.no_grad():
        _, log_betas = base.hidden(ids, positions, documents, gates)
    assert len(read) == len(log_betas) == len(base.gated_layers)
    for il, (h, found) in enumerate(zip(read, log_betas, strict=True)):
        expected = gate_output(gates.gate_set(), il, h.reshape(2 * T, -1))
        np.testing.assert_allclose(found.numpy().reshape(2 * T, -1), expected, rtol=1e-4, atol=1e-6)
        assert found.dtype == torch.float32


def test_gates_change_what_is_said_and_nothing_of_the_model() -> None:
    ids, positions, documents = make_ids()
    base = BaseModel(tiny_base(FAMILIES["qwen3"]))
    before = {name: parameter.clone() for name, parameter in base.model.named_parameters()}
    gates = make_gates(base, "rg10", True, -1.0)
    full, _ = base.hidden(ids, positions, documents)
    faded, _ = base.hidden(ids, positions, documents, gates)
    assert (full - faded).abs().max() > 0.1
    faded.sum().backward()
    assert all(parameter.grad is not None for parameter in gates.parameters())
    for name, parameter in base.model.named_parameters():
        assert parameter.grad is None and torch.equal(parameter, before[name])


@pytest.mark.parametrize("family", PARTLY_FULL)
def test_layers_with_a_window_or_a_state_are_read_as_the_model_reads_them(family: str) -> None:
    """Without gates the model says what it says unpatched, and the full layers alone have gates."""
    config, full_layers = PARTLY_FULL[family]
    ids, positions, documents = make_ids()
    with torch.no_grad():
        expected = tiny_base(config)(input_ids=ids).logits
        base = BaseModel(tiny_base(config))
        hidden, _ = base.hidden(ids, positions, documents)
    torch.testing.assert_close(base.logits(hidden), expected, rtol=1e-3, atol=1e-3)
    assert base.gated_layers == full_layers and base.n_layer == 3
    assert base.packs_documents == (family not in ("qwen3-next", "lfm2"))

    gates = RetentionGates(len(full_layers), base.n_embd, base.n_head_kv, 32, "rg10", True, "silu", 1.0)
    read: dict[int, np.ndarray] = {}
    for layer in base.layers:
        layer.q_proj.register_forward_hook(
            lambda module, args, output, il=layer.layer_idx: read.update({il: args[0].detach().numpy()})
        )
    faded, log_betas = base.hidden(ids, positions, documents, gates)
    assert len(log_betas) == len(full_layers) and (faded - hidden).abs().max() > 1e-3
    gate_set = gates.gate_set(base.gated_layers, base.n_layer)
    for il, found in zip(full_layers, log_betas, strict=True):
        output = gate_output(gate_set, il, read[il].reshape(2 * T, -1))
        np.testing.assert_allclose(found.detach().numpy().reshape(2 * T, -1), output, rtol=1e-4, atol=1e-6)
    faded.sum().backward()
    assert all(parameter.grad is not None for parameter in gates.parameters())


@pytest.mark.parametrize("family", [name for name in PARTLY_FULL if name not in ("qwen3-next", "lfm2")])
def test_windows_end_at_the_start_of_a_document(family: str) -> None:
    base = BaseModel(tiny_base(PARTLY_FULL[family][0]))
    ids, positions, documents = make_ids()
    positions, documents = positions.clone(), documents.clone()
    positions[:, 10:] -= 10
    documents[:, 10:] = 1
    with torch.no_grad():
        packed, _ = base.hidden(ids, positions, documents)
        alone, _ = base.hidden(ids[:, 10:], positions[:, 10:], documents[:, 10:])
    torch.testing.assert_close(packed[:, 10:], alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "family, reason", [("gpt2", "has 2 layers and 0 of them"), ("mistral", "every layer of .* has a sliding window")]
)
def test_families_that_cannot_fade(family: str, reason: str) -> None:
    with pytest.raises(RetainError, match=reason):
        BaseModel(tiny_base(REFUSED[family]))


def test_a_model_that_says_something_else_is_refused() -> None:
    model = tiny_base(FAMILIES["llama"])
    plain = model.model.forward

    def forward(*args, **kwargs):
        output = plain(*args, **kwargs)
        if model.config._attn_implementation == "retain_local":
            output.last_hidden_state = output.last_hidden_state + 1
        return output

    model.model.forward = forward
    with pytest.raises(RetainError, match="does not say with fading attention what it says with its own"):
        BaseModel(model)
