"""Attention over a cache whose cells fade, in blocks of queries, so that memory is linear in the length of a row.

A cell at position i has weight beta_i^(t - i) for a query at t, which is a bias of (t - i) log beta_i on its attention
logit (arXiv 2605.09649). Rows hold several documents; a token attends to its own document alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# numbers of a block of logits [B, H, block, T] that are held at once; backward computes each block anew
BLOCK_NUMBERS = 1 << 26


def fading_attention(
    q: Tensor, k: Tensor, v: Tensor, log_beta: Tensor | None, documents: Tensor, scaling: float,
    block_numbers: int | None = None,
) -> Tensor:  # fmt: skip
    """Causal softmax attention within documents, with fading cells.

    Parameters
    ----------
    q : [B, H_q, T, D]
    k, v : [B, H_kv, T, D], with H_kv a divisor of H_q.
    log_beta : [B, T, H_kv] float32; None: nothing fades.
    documents : [B, T] integers: tokens with equal numbers are of one document, and documents are contiguous.
    scaling : of the logits.
    block_numbers : None: `BLOCK_NUMBERS`.

    Returns
    -------
    [B, T, H_q, D]
    """
    n_batch, n_head, n_tokens, _ = q.shape
    fade = None if log_beta is None else log_beta.transpose(1, 2)  # [B, H_kv, T]
    size = max(1, (block_numbers or BLOCK_NUMBERS) // (n_batch * n_head * n_tokens))
    if size >= n_tokens:
        return _attend_block(q, k, v, fade, documents, scaling, 0)
    outputs = []
    for start in range(0, n_tokens, size):
        stop = min(start + size, n_tokens)
        block = q[:, :, start:stop], k[:, :, :stop], v[:, :, :stop], None if fade is None else fade[:, :, :stop]
        outputs.append(checkpoint(_attend_block, *block, documents[:, :stop], scaling, start, use_reentrant=False))
    return torch.cat(outputs, dim=1)


def _attend_block(
    q: Tensor, k: Tensor, v: Tensor, fade: Tensor | None, documents: Tensor, scaling: float, start: int
) -> Tensor:
    """The queries [start, start + n) over the keys [0, start + n)."""
    n_batch, n_head, n_queries, head_dim = q.shape
    n_head_kv = k.shape[1]
    seen = visible(documents, start)
    if fade is None:
        mixed = F.scaled_dot_product_attention(q, k, v, seen[:, None], scale=scaling, enable_gqa=n_head != n_head_kv)
        return mixed.transpose(1, 2)
    grouped = q.reshape(n_batch, n_head_kv, n_head // n_head_kv, n_queries, head_dim)
    logits = (grouped @ k[:, :, None].transpose(-1, -2)).float() * scaling
    bias = ages(start, n_queries, k.shape[2], q.device) * fade[:, :, None, :]
    logits = logits + bias.masked_fill(~seen[:, None], -torch.inf)[:, :, None]
    mixed = logits.softmax(dim=-1).to(v.dtype) @ v[:, :, None]
    return mixed.reshape(n_batch, n_head, n_queries, v.shape[-1]).transpose(1, 2)


def ages(start: int, n_queries: int, n_keys: int, device: torch.device) -> Tensor:
    """t - i of queries [start, start + n_queries) and keys [0, n_keys), at least 0; [n_queries, n_keys] float32."""
    queries = torch.arange(start, start + n_queries, device=device)
    return (queries[:, None] - torch.arange(n_keys, device=device)).clamp(min=0).float()


def visible(documents: Tensor, start: int) -> Tensor:
    """Whether a query of [start, T) sees a key of [0, T): an earlier token of its document; bool [B, T - start, T]."""
    n_keys = documents.shape[1]
    causal = torch.ones(n_keys - start, n_keys, dtype=torch.bool, device=documents.device).tril(start)
    return causal & (documents[:, start:, None] == documents[:, None, :])
