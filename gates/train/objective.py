"""What the gates are trained to do.

    loss = kl_weight KL(full cache || fading cache) + ce_weight cross-entropy + capacity_weight capacity

over the tokens that count, after arXiv 2605.09649, with capacity as in `capacity_excess`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .base import BaseModel
from .capacity import capacity_excess, cells_left
from .modules import RetentionGates
from .options import TrainOptions
from .rows import Batch

# logits that are held at once, for teacher and student each; backward computes each block anew
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
    kl, ce = _divergences(base, teacher, student, batch)

    real = batch.documents >= 0
    left = cells_left(log_betas, batch.documents)
    n_cell_lists = base.n_layer * base.n_head_kv
    capacity = capacity_excess(left, batch.positions, real, options.budget, n_cell_lists)
    share = (left.detach() / ((batch.positions + 1) * n_cell_lists))[real].mean()
    total = options.kl_weight * kl + options.ce_weight * ce + options.capacity_weight * capacity
    return Losses(total, kl.detach(), ce.detach(), capacity.detach(), share)


def _divergences(base: BaseModel, teacher: Tensor, student: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """KL and cross-entropy, averaged over the tokens that count, each predicted by the one before it."""
    counts = batch.counts[:, 1:]
    teacher, student = teacher[:, :-1][counts], student[:, :-1][counts]
    targets = batch.ids[:, 1:][counts]
    size = max(1, LOGIT_NUMBERS // base.config.vocab_size)
    kl = ce = student.new_zeros((), dtype=torch.float32)
    for start in range(0, len(targets), size):
        block = slice(start, start + size)
        block_kl, block_ce = checkpoint(
            _block_divergences, base, teacher[block], student[block], targets[block], use_reentrant=False
        )
        kl, ce = kl + block_kl, ce + block_ce
    n = max(1, len(targets))
    return kl / n, ce / n


def _block_divergences(base: BaseModel, teacher: Tensor, student: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    expected = base.logits(teacher).log_softmax(-1)
    found = base.logits(student).log_softmax(-1)
    kl = F.kl_div(found, expected, reduction="sum", log_target=True)
    return kl, F.nll_loss(found, targets, reduction="sum")
