"""Attention over a cache whose cells fade, with memory that is linear in the length of a row.

A cell at position i has weight beta_i^(t - i) for a query at t, which is a bias of (t - i) log beta_i on its attention
logit (arXiv 2605.09649). Rows hold several documents; a token attends to its own document alone. On a GPU with Triton a
kernel computes it (`attention_kernel`), elsewhere plain PyTorch does, in blocks of queries.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .spans import Spans
from .triton_kernels import has_kernels

# numbers of a block of logits [B, H, block, T] that are held at once; backward computes each block anew
BLOCK_NUMBERS = 1 << 26


def fading_attention(
    q: Tensor, k: Tensor, v: Tensor, log_beta: Tensor | None, spans: Spans, scaling: float,
    sinks: Tensor | None = None, softcap: float | None = None,
) -> Tensor:  # fmt: skip
    """Causal softmax attention within spans, with fading cells.

    Parameters
    ----------
    q : [B, H_q, T, D]
    k, v : [B, H_kv, T, D], with H_kv a divisor of H_q.
    log_beta : [B, T, H_kv] float32; None: nothing fades.
    spans : which keys each query sees.
    scaling : of the logits.
    sinks : [H_q], a logit of each head that takes part in the softmax and gives nothing (gpt-oss). It has no gradient.
    softcap : logits are softcap tanh(logit / softcap), before they fade (Gemma 2).

    Returns
    -------
    [B, T, H_q, D]
    """
    if has_kernels(q) and softcap is None and q.shape[-1] == v.shape[-1]:
        from .attention_kernel import kernel_attention

        return kernel_attention(q, k, v, log_beta, spans, scaling, sinks)
    return blockwise_attention(q, k, v, log_beta, spans, scaling, sinks, softcap)


def blockwise_attention(
    q: Tensor, k: Tensor, v: Tensor, log_beta: Tensor | None, spans: Spans, scaling: float,
    sinks: Tensor | None = None, softcap: float | None = None, block_numbers: int | None = None,
) -> Tensor:  # fmt: skip
    """`fading_attention` in plain PyTorch; a block has `block_numbers` logits, None: `BLOCK_NUMBERS`."""
    n_batch, n_head, n_tokens, _ = q.shape
    fade = None if log_beta is None else log_beta.transpose(1, 2)  # [B, H_kv, T]
    size = max(1, (block_numbers or BLOCK_NUMBERS) // (n_batch * n_head * n_tokens))
    if size >= n_tokens:
        return _attend_block(q, k, v, fade, spans.visible(0, n_tokens), scaling, sinks, softcap)
    outputs = []
    for start in range(0, n_tokens, size):
        stop = min(start + size, n_tokens)
        block = q[:, :, start:stop], k[:, :, :stop], v[:, :, :stop], None if fade is None else fade[:, :, :stop]
        seen = spans.visible(start, stop)
        outputs.append(checkpoint(_attend_block, *block, seen, scaling, sinks, softcap, use_reentrant=False))
    return torch.cat(outputs, dim=1)


def _attend_block(
    q: Tensor, k: Tensor, v: Tensor, fade: Tensor | None, seen: Tensor, scaling: float, sinks: Tensor | None,
    softcap: float | None,
) -> Tensor:  # fmt: skip
    """The last queries over the keys [0, stop), of which they see those in `seen` [B, n_queries, stop]."""
    n_batch, n_head, n_queries, head_dim = q.shape
    n_head_kv = k.shape[1]
    if fade is None and sinks is None and softcap is None:
        mixed = F.scaled_dot_product_attention(q, k, v, seen[:, None], scale=scaling, enable_gqa=n_head != n_head_kv)
        return mixed.transpose(1, 2)
    grouped = q.reshape(n_batch, n_head_kv, n_head // n_head_kv, n_queries, head_dim)
    logits = (grouped @ k[:, :, None].transpose(-1, -2)).float() * scaling
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if fade is not None:
        logits = logits + (ages(k.shape[2] - n_queries, k.shape[2], q.device) * fade[:, :, None, :])[:, :, None]
    logits = logits.masked_fill(~seen[:, None, None], -torch.inf)
    if sinks is not None:
        sink = sinks.float().reshape(1, n_head_kv, -1, 1, 1).expand(*logits.shape[:-1], 1)
        weights = torch.cat((logits, sink), dim=-1).softmax(dim=-1)[..., :-1]
    else:
        weights = logits.softmax(dim=-1)
    mixed = weights.to(v.dtype) @ v[:, :, None]
    return mixed.reshape(n_batch, n_head, n_queries, v.shape[-1]).transpose(1, 2)


def ages(start: int, stop: int, device: torch.device) -> Tensor:
    """t - i of queries [start, stop) and keys [0, stop), at least 0; [stop - start, stop] float32."""
    queries = torch.arange(start, stop, device=device)
    return (queries[:, None] - torch.arange(stop, device=device)).clamp(min=0).float()
