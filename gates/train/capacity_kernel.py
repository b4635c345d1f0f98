"""What is left of fading cells, in Triton: S_t of each cell list, and the gradient of its log betas.

With g_t the gradient of S_t, that of log beta_i is the sum over the t that see i of g_t (t - i) beta_i^(t - i).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .spans import Spans

_ROWS, _COLS = 128, 64


def kernel_left(fade: Tensor, spans: Spans) -> Tensor:
    """S_t [B, T] float32 of log betas [B, L H, T] float32, summed over the cell lists."""
    return _KernelLeft.apply(fade.contiguous(), spans)


class _KernelLeft(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fade: Tensor, spans: Spans) -> Tensor:
        n_batch, n_lists, n_tokens = fade.shape
        left = torch.empty_like(fade)
        _forward[(triton.cdiv(n_tokens, _ROWS), n_batch * n_lists)](
            fade, spans.first, left, n_tokens, n_lists, ROWS=_ROWS, COLS=_COLS
        )
        ctx.save_for_backward(fade)
        ctx.spans = spans
        return left.sum(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (fade,) = ctx.saved_tensors
        _, n_lists, n_tokens = fade.shape
        d_fade = torch.empty_like(fade)
        _backward[(triton.cdiv(n_tokens, _COLS), fade.shape[0] * n_lists)](
            fade, ctx.spans.first, ctx.spans.last, gradients[0].contiguous(), d_fade, n_tokens, n_lists,
            ROWS=_ROWS, COLS=_COLS,
        )  # fmt: skip
        return d_fade, None


@triton.jit
def _powers(fade, rows, cols, first):
    """beta_i^(t - i) of a block, 0 where i is not seen; and the ages t - i."""
    seen = (cols[None, :] <= rows[:, None]) & (cols[None, :] >= first[:, None])
    age = tl.where(seen, rows[:, None] - cols[None, :], 0).to(tl.float32)
    return tl.where(seen, tl.exp(age * fade[None, :]), 0.0), age


@triton.jit
def _forward(fade, first, left, n_tokens, n_lists, ROWS: tl.constexpr, COLS: tl.constexpr):
    cells = tl.program_id(1).to(tl.int64)
    batch = cells // n_lists
    begin = tl.program_id(0) * ROWS
    rows = begin + tl.arange(0, ROWS)
    seen_from = tl.load(first + batch * n_tokens + rows, mask=rows < n_tokens, other=n_tokens)
    total = tl.zeros([ROWS], tl.float32)
    start = tl.load(first + batch * n_tokens + begin) // COLS * COLS
    for at in range(start, tl.minimum(begin + ROWS, n_tokens), COLS):
        cols = at + tl.arange(0, COLS)
        block = tl.load(fade + cells * n_tokens + cols, mask=cols < n_tokens, other=0.0)
        powers, _ = _powers(block, rows, cols, seen_from)
        total += tl.sum(powers, 1)
    tl.store(left + cells * n_tokens + rows, total, mask=rows < n_tokens)


@triton.jit
def _backward(fade, first, last, d_left, d_fade, n_tokens, n_lists, ROWS: tl.constexpr, COLS: tl.constexpr):
    cells = tl.program_id(1).to(tl.int64)
    batch = cells // n_lists
    begin = tl.program_id(0) * COLS
    cols = begin + tl.arange(0, COLS)
    block = tl.load(fade + cells * n_tokens + cols, mask=cols < n_tokens, other=0.0)
    total = tl.zeros([COLS], tl.float32)
    stop = tl.load(last + batch * n_tokens + tl.minimum(begin + COLS, n_tokens) - 1)
    for at in range(begin // ROWS * ROWS, stop, ROWS):
        rows = at + tl.arange(0, ROWS)
        seen_from = tl.load(first + batch * n_tokens + rows, mask=rows < n_tokens, other=n_tokens)
        gradient = tl.load(d_left + batch * n_tokens + rows, mask=rows < n_tokens, other=0.0)
        powers, age = _powers(block, rows, cols, seen_from)
        total += tl.sum(gradient[:, None] * age * powers, 0)
    tl.store(d_fade + cells * n_tokens + cols, total, mask=cols < n_tokens)
