"""How much of a fading cache is left, and by how much that exceeds the budget.

    S_t = sum over layers, heads and i <= t of beta_i^(t - i)
    capacity = mean over the t where it is positive of max(0, (S_t - M L H) / max(1, t L H - M L H))

after arXiv 2605.09649, with t counted from 1 in each document. Powers are computed in blocks of t and computed anew in
backward, so memory is linear in the length of a row; on a GPU with Triton a kernel does it (`capacity_kernel`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .attention import BLOCK_NUMBERS, ages
from .spans import Spans
from .triton_kernels import has_kernels


def cells_left(log_betas: Sequence[Tensor], spans: Spans) -> Tensor:
    """S_t of every token's document, [B, T] float32.

    Parameters
    ----------
    log_betas : for each layer [B, T, H_kv] float32.
    spans : of the documents.
    """
    fade = torch.cat(list(log_betas), dim=2).transpose(1, 2)  # [B, L H, T]
    if has_kernels(fade):
        from .capacity_kernel import kernel_left

        return kernel_left(fade, spans)
    return blockwise_left(fade, spans)


def blockwise_left(fade: Tensor, spans: Spans, block_numbers: int | None = None) -> Tensor:
    """`cells_left` in plain PyTorch, of log betas [B, L H, T]; a block has `block_numbers` powers, None: `BLOCK_NUMBERS`."""
    n_batch, n_lists, n_tokens = fade.shape
    size = max(1, (block_numbers or BLOCK_NUMBERS) // (n_batch * n_tokens * n_lists))
    if size >= n_tokens:
        return _left_in_block(fade, spans.visible(0, n_tokens))
    blocks = []
    for start in range(0, n_tokens, size):
        stop = min(start + size, n_tokens)
        seen = spans.visible(start, stop)
        blocks.append(checkpoint(_left_in_block, fade[:, :, :stop], seen, use_reentrant=False))
    return torch.cat(blocks, dim=1)


def _left_in_block(fade: Tensor, seen: Tensor) -> Tensor:
    n_keys = fade.shape[2]
    powers = (ages(n_keys - seen.shape[1], n_keys, fade.device) * fade[:, :, None, :]).exp()
    return (powers * seen[:, None]).sum(dim=(1, 3))


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
    return torch.where(over, excess, 0).sum() / over.sum().clamp(min=1)
