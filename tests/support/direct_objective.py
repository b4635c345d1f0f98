"""The loss of training gates, written with whole T x T matrices and one document at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def direct_attention(q: Tensor, k: Tensor, v: Tensor, log_beta: Tensor, scaling: float) -> Tensor:
    """Attention of one document: q [H_q, T, D], k and v [H_kv, T, D], log_beta [T, H_kv]; [T, H_q, D].

    Weights are beta_i^(t - i) exp(q.k), normalised.
    """
    n_tokens = q.shape[1]
    t, i = torch.arange(n_tokens)[:, None], torch.arange(n_tokens)[None]
    out = []
    for head in range(q.shape[0]):
        kv = head * k.shape[0] // q.shape[0]
        weights = torch.exp(log_beta[:, kv]) ** (t - i).clamp(min=0) * torch.exp(q[head] @ k[kv].T * scaling)
        weights = torch.where(i <= t, weights, 0)
        out.append((weights / weights.sum(1, keepdim=True)) @ v[kv])
    return torch.stack(out, dim=1)


def direct_capacity(log_betas: list[list[Tensor]], budget: int) -> Tensor:
    """The capacity loss; log_betas holds for each document and layer [T, H_kv]."""
    excess = []
    for document in log_betas:
        n_tokens, n_cell_lists = document[0].shape[0], sum(layer.shape[1] for layer in document)
        for t in range(1, n_tokens + 1):
            ages = torch.arange(t - 1, -1, -1)
            left = sum(torch.exp(layer[:t] * ages[:, None]).sum() for layer in document)
            most = t * n_cell_lists - budget * n_cell_lists
            excess.append((left - budget * n_cell_lists) / max(1, most))
    stacked = torch.stack(excess)
    positive = stacked[stacked > 0]
    return positive.mean() if len(positive) else stacked.sum() * 0


def direct_divergences(teacher: Tensor, student: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) and cross-entropy of logits [n, V], averaged."""
    p, q = teacher.softmax(-1), student.softmax(-1)
    return (p * (p.log() - q.log())).sum(-1).mean(), F.cross_entropy(student, targets)
