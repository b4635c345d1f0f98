"""What the gates are trained to do.

    loss = kl_weight KL(full cache || fading cache) + ce_weight cross-entropy + capacity_weight capacity

over the tokens that count, after arXiv 2605.09649, with capacity as in `capacity_excess`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import BaseModel
from .capacity import capacity_excess, cells_left
from .modules import RetentionGates
from .options import TrainOptions
from .rows import Batch
from .spans import spans_of

# logits that are held at once, for teacher and student each
LOGIT_NUMBERS = 1 << 26


@dataclass(frozen=True)
class Losses:
    """The losses of a batch, scalars; `total` has the gradient.

    total : the weighted sum.
    kl, ce : nats per token that counts.
    capacity : relative excess over the budget.
    cells : cells left, as a share of those that were seen, averaged over the tokens.
    """

    total: Tensor
    kl: Tensor
    ce: Tensor
    capacity: Tensor
    cells: Tensor


def gate_losses(base: BaseModel, gates: RetentionGates, batch: Batch, options: TrainOptions) -> Losses:
    """The losses of a batch."""
    with torch.no_grad():
        teacher, _ = base.hidden(batch.ids, batch.positions, batch.documents)
    student, log_betas = base.hidden(batch.ids, batch.positions, batch.documents, gates)
    divergence, kl, ce = _divergences(base, teacher, student, batch, options)

    real = batch.documents >= 0
    left = cells_left(log_betas, spans_of(batch.documents))
    n_cell_lists = len(base.gated_layers) * base.n_head_kv
    capacity = capacity_excess(left, batch.positions, real, options.budget, n_cell_lists)
    share = (left.detach() / ((batch.positions + 1) * n_cell_lists))[real].mean()
    total = divergence + options.capacity_weight * capacity
    return Losses(total, kl, ce, capacity.detach(), share)


def _divergences(
    base: BaseModel, teacher: Tensor, student: Tensor, batch: Batch, options: TrainOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted sum of KL and cross-entropy, and each alone, averaged over the tokens that count, each predicted by
    the one before it."""
    counts = batch.counts[:, 1:]
    teacher, student = teacher[:, :-1][counts], student[:, :-1][counts]
    targets = batch.ids[:, 1:][counts]
    divergence, kl, ce = _BlockwiseDivergence.apply(
        student, teacher, targets, base, options.kl_weight, options.ce_weight
    )
    n = max(1, len(targets))
    return divergence / n, kl / n, ce / n


class _BlockwiseDivergence(torch.autograd.Function):
    """kl_weight KL + ce_weight cross-entropy of hidden states [n, n_embd], and each alone, summed over the tokens.

    The output matrix is frozen, so the gradient of a block's hidden states is all that backward needs of its logits. It is
    taken while they are there: no logits are kept, and none are computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, targets: Tensor, base: BaseModel, kl_weight: float,
        ce_weight: float,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        size = max(1, LOGIT_NUMBERS // base.config.vocab_size)
        gradient = torch.empty_like(student)
        kl, ce = (student.new_zeros((), dtype=torch.float32) for _ in range(2))
        for start in range(0, len(targets), size):
            block = slice(start, start + size)
            expected = base.logits(teacher[block]).log_softmax(-1)
            with torch.enable_grad():
                hidden = student[block].detach().requires_grad_()
                found = base.logits(hidden).log_softmax(-1)
                block_kl = F.kl_div(found, expected, reduction="sum", log_target=True)
                block_ce = F.nll_loss(found, targets[block], reduction="sum")
                (gradient[block],) = torch.autograd.grad(kl_weight * block_kl + ce_weight * block_ce, hidden)
            kl, ce = kl + block_kl.detach(), ce + block_ce.detach()
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(kl, ce)
        return kl_weight * kl + ce_weight * ce, kl, ce

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0].to(gradient.dtype), None, None, None, None, None
