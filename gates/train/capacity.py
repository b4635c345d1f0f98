"""How much of a fading cache is left, and by how much that exceeds the budget.

    S_t = sum over layers, heads and i <= t of beta_i^(t - i)
    capacity = mean over the t where it is positive of max(0, (S_t - M L H) / max(1, t L H - M L H))

after arXiv 2605.09649, with t counted from 1 in each document. Powers are computed in blocks of t and computed anew in
backward, so memory is linear in the length of a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .attention import BLOCK_NUMBERS, ages, visible


def cells_left(log_betas: Sequence[Tensor], documents: Tensor, block_numbers: int | None = None) -> Tensor:
    """S_t of every token's document, [B, T] float32.

    Parameters
    ----------
    log_betas : for each layer [B, T, H_kv] float32.
    documents : [B, T], see `fading_attention`.
    """
    n_batch, n_tokens = documents.shape
    size = max(1, (block_numbers or BLOCK_NUMBERS) // (n_batch * n_tokens * log_betas[0].shape[2]))
    left = torch.zeros(n_batch, n_tokens, device=documents.device)
    for log_beta in log_betas:
        fade = log_beta.transpose(1, 2)
        if size >= n_tokens:
            left = left + _left_in_block(fade, documents, 0)
            continue
        blocks = []
        for start in range(0, n_tokens, size):
            stop = min(start + size, n_tokens)
            blocks.append(
                checkpoint(_left_in_block, fade[:, :, :stop], documents[:, :stop], start, use_reentrant=False)
            )
        left = left + torch.cat(blocks, dim=1)
    return left


def _left_in_block(fade: Tensor, documents: Tensor, start: int) -> Tensor:
    n_keys = fade.shape[2]
    powers = (ages(start, n_keys - start, n_keys, fade.device) * fade[:, :, None, :]).exp()
    return (powers * visible(documents, start)[:, None]).sum(dim=(1, 3))


def capacity_excess(left: Tensor, positions: Tensor, real: Tensor, budget: int, n_cell_lists: int) -> Tensor:
    """The capacity loss, a scalar.

    Parameters
    ----------
    left : S_t, [B, T].
    positions : of the tokens in their documents, from 0; [B, T].
    real : false for padding, [B, T].
    budget : M.
    n_cell_lists : L H.
    """
    most = (positions + 1) * n_cell_lists - budget * n_cell_lists
    excess = (left - budget * n_cell_lists) / most.clamp(min=1)
    over = (excess > 0) & real
    return excess[over].mean() if over.any() else left.sum() * 0.0
