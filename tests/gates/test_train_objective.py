"""Training gates: attention, capacity, losses and their gradients against T x T matrices."""

from __future__ import annotations

import pytest
import torch

from retain_local.gates.train import attention, capacity, objective
from retain_local.gates.train.attention import blockwise_attention, fading_attention
from retain_local.gates.train.base import BaseModel
from retain_local.gates.train.capacity import blockwise_left, capacity_excess, cells_left
from retain_local.gates.train.modules import RetentionGates
from retain_local.gates.train.objective import gate_losses
from retain_local.gates.train.options import TrainOptions
from retain_local.gates.train.rows import Batch
from retain_local.gates.train.spans import spans_of
from support.direct_objective import direct_attention, direct_capacity, direct_divergences
from support.tiny_bases import FAMILIES, tiny_base

LENGTHS = ((9, 5), (14,))  # documents of two rows; the first row has a token of padding in 15
T = 15


def make_documents() -> tuple[torch.Tensor, torch.Tensor, list[tuple[int, slice]]]:
    """documents and positions [2, T], and where each document is."""
    documents, positions = torch.full((2, T), -1), torch.zeros(2, T, dtype=torch.long)
    places = []
    for row, lengths in enumerate(LENGTHS):
        start = 0
        for number, length in enumerate(lengths):
            documents[row, start : start + length] = number
            positions[row, start : start + length] = torch.arange(length)
            places.append((row, slice(start, start + length)))
            start += length
    return documents, positions, places


@pytest.mark.parametrize("block", [1 << 20, 2 * 4 * T * 4, 1], ids=["whole", "blocks", "one-by-one"])
def test_attention(block: int) -> None:
    torch.manual_seed(0)
    documents, _, places = make_documents()
    q, k, v = (torch.randn(2, heads, T, 8, dtype=torch.double, requires_grad=True) for heads in (4, 2, 2))
    log_beta = (-torch.rand(2, T, 2, dtype=torch.double)).requires_grad_()
    weight = torch.randn(2, T, 4, 8, dtype=torch.double)
    weight[documents < 0] = 0
    inputs = (q, k, v, log_beta)

    found = (blockwise_attention(q, k, v, log_beta, spans_of(documents), 0.4, block_numbers=block) * weight).sum()
    expected = sum(
        (direct_attention(q[row, :, at], k[row, :, at], v[row, :, at], log_beta[row, at], 0.4) * weight[row, at]).sum()
        for row, at in places
    )
    for a, b in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # the bias is in float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("block", [1 << 20, 2 * T])
def test_nothing_fades_without_gates(block: int) -> None:
    torch.manual_seed(0)
    documents, _, _ = make_documents()
    q, k, v = (torch.randn(2, heads, T, 8) for heads in (4, 2, 2))
    spans = spans_of(documents)
    with_ones = fading_attention(q, k, v, torch.zeros(2, T, 2), spans, 0.4)
    torch.testing.assert_close(blockwise_attention(q, k, v, None, spans, 0.4, block_numbers=block), with_ones)


@pytest.mark.parametrize("block", [1 << 20, 2 * 2 * T * 4, 1])
@pytest.mark.parametrize("budget", [1, 3, 50])
def test_capacity(block: int, budget: int) -> None:
    torch.manual_seed(1)
    documents, positions, places = make_documents()
    layers = [(-torch.rand(2, T, 2) * 0.5).requires_grad_() for _ in range(3)]
    left = blockwise_left(torch.cat(layers, 2).transpose(1, 2), spans_of(documents), block)
    torch.testing.assert_close(cells_left(layers, spans_of(documents)), left)
    found = capacity_excess(left, positions, documents >= 0, budget, 6)
    expected = direct_capacity([[layer[row, at] for layer in layers] for row, at in places], budget)
    torch.testing.assert_close(found, expected)
    assert (found > 0) == (budget < 50)
    for a, b in zip(torch.autograd.grad(found, layers), torch.autograd.grad(expected, layers), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("blocks", [False, True], ids=["whole", "blocks"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "computed-anew"])
def test_losses_and_gradients(blocks: bool, checkpointing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it, through a model: what blocks and checkpoints give is what whole matrices give."""
    base, plain = BaseModel(tiny_base(FAMILIES["qwen3"])), BaseModel(tiny_base(FAMILIES["qwen3"]))
    if checkpointing:
        base.use_gradient_checkpointing()
    if blocks:
        for module in (attention, capacity):
            monkeypatch.setattr(module, "BLOCK_NUMBERS", 2 * 4 * T * 4)
        monkeypatch.setattr(objective, "LOGIT_NUMBERS", 4 * base.config.vocab_size)
    torch.manual_seed(2)
    gates = RetentionGates(base.n_layer, base.n_embd, base.n_head_kv, 32, "rg10", True, "silu", 1.0)
    documents, positions, places = make_documents()
    ids = torch.randint(base.config.vocab_size, (2, T))
    counts = torch.rand(2, T) < 0.7
    counts &= (positions > 0) & (documents >= 0)
    options = TrainOptions(budget=3, context=T, capacity_weight=0.7, kl_weight=0.3, ce_weight=0.9)
    losses = gate_losses(base, gates, Batch(ids, positions, documents, counts), options)

    teachers, students, targets, log_betas = [], [], [], []
    for row, at in places:
        seen = (ids[row : row + 1, at], positions[row : row + 1, at], torch.zeros_like(ids[row : row + 1, at]))
        teacher, _ = plain.hidden(*seen)
        student, betas = direct_hidden(plain, gates, seen)
        log_betas.append([beta[0] for beta in betas])
        chosen = counts[row, at][1:]
        teachers.append(plain.logits(teacher[0, :-1][chosen]))
        students.append(plain.logits(student[0, :-1][chosen]))
        targets.append(ids[row, at][1:][chosen])
    kl, ce = direct_divergences(torch.cat(teachers), torch.cat(students), torch.cat(targets))
    hinge = direct_capacity(log_betas, options.budget)
    expected = 0.3 * kl + 0.9 * ce + 0.7 * hinge

    assert losses.kl.item() == pytest.approx(kl.item(), rel=1e-4)
    assert losses.ce.item() == pytest.approx(ce.item(), rel=1e-4)
    assert losses.capacity.item() == pytest.approx(hinge.item(), rel=1e-4) and hinge > 0
    parameters = list(gates.parameters())
    found, wanted = torch.autograd.grad(losses.total, parameters), torch.autograd.grad(expected, parameters)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-6)


def direct_hidden(base: BaseModel, gates: RetentionGates, seen: tuple[torch.Tensor, ...]):
    """One document through the model with `direct_attention` in place of ours."""
    from retain_local.gates.train import base as module

    def attend(q, k, v, log_beta, spans, scaling, sinks, softcap):
        return direct_attention(q[0], k[0], v[0], log_beta[0], scaling)[None]

    ours, module.fading_attention = module.fading_attention, attend
    try:
        return base.hidden(*seen, gates)
    finally:
        module.fading_attention = ours


def test_the_share_of_cells_that_are_left() -> None:
    """Counted over the tokens of documents alone: all of them where nothing fades."""
    base = BaseModel(tiny_base(FAMILIES["llama"]))
    gates = RetentionGates(base.n_layer, base.n_embd, base.n_head_kv, 32, "rg", False, "silu", 40.0)
    documents, positions, _ = make_documents()
    batch = Batch(torch.ones(2, T, dtype=torch.long), positions, documents, positions > 0)
    losses = gate_losses(base, gates, batch, TrainOptions(variant="rg", budget=3, context=T))
    assert losses.cells.item() == pytest.approx(1, abs=1e-5)
    assert losses.kl.item() == pytest.approx(0, abs=1e-5)
