"""Fading attention in Triton: softmax over blocks of keys with running maxima, as FlashAttention-2 (arXiv 2307.08691).

Backward computes the logits anew from the log-sum-exp that forward kept. With p the weights, dO the gradient of the output
and delta = sum over D of dO * O, the gradient of a logit is dS = p (dO V^T - delta), and that of log beta_i is the sum over
the queries t and the heads of a group of dS_ti (t - i). Each program owns the keys or queries that it writes gradients
of, so nothing is added up in an order that varies.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .spans import Spans


def kernel_attention(
    q: Tensor, k: Tensor, v: Tensor, log_beta: Tensor | None, spans: Spans, scaling: float, sinks: Tensor | None
) -> Tensor:
    """`fading_attention` without a cap on the logits, with equal head sizes of K and V."""
    fade = None if log_beta is None else log_beta.transpose(1, 2).contiguous()
    return _KernelAttention.apply(q.contiguous(), k.contiguous(), v.contiguous(), fade, spans, scaling, sinks)


class _KernelAttention(torch.autograd.Function):
    """q [B, H_q, T, D], k and v [B, H_kv, T, D], fade [B, H_kv, T] float32, all contiguous; to [B, T, H_q, D]."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, fade: Tensor | None, spans: Spans, scaling: float,
        sinks: Tensor | None,
    ) -> Tensor:  # fmt: skip
        n_batch, n_head, n_tokens, head_dim = q.shape
        out = q.new_empty(n_batch, n_tokens, n_head, head_dim)
        lse = q.new_empty(n_batch, n_head, n_tokens, dtype=torch.float32)
        shape = _Shape(q, k)
        tile = shape.tile(128, 64)
        _forward[(triton.cdiv(n_tokens, tile["ROWS"]), n_batch * n_head)](
            q, k, v, q if fade is None else fade, spans.first, q if sinks is None else sinks, out, lse, scaling,
            n_tokens, n_head, HAS_FADE=fade is not None, HAS_SINKS=sinks is not None, **shape.constants, **tile,
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, fade, out, lse)
        ctx.spans, ctx.scaling = spans, scaling
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, fade, out, lse = ctx.saved_tensors
        d_out = gradients[0].contiguous()
        n_batch, n_head, n_tokens, _ = q.shape
        delta = (d_out.float() * out.float()).sum(-1).transpose(1, 2).contiguous()  # [B, H_q, T]
        shape = _Shape(q, k)
        shared = (q, k, v, q if fade is None else fade, d_out, lse, delta)
        needs_q, needs_k, needs_v, needs_fade = ctx.needs_input_grad[:4]
        d_q = d_k = d_v = d_fade = None
        if needs_k or needs_v or needs_fade:
            d_k, d_v = torch.empty_like(k), torch.empty_like(v)
            d_fade = None if fade is None else torch.empty_like(fade)
            tile = shape.tile(64, 64)
            _backward_keys[(triton.cdiv(n_tokens, tile["COLS"]), n_batch * k.shape[1])](
                *shared, ctx.spans.first, ctx.spans.last, d_k, d_v, q if d_fade is None else d_fade, ctx.scaling,
                n_tokens, n_head, HAS_FADE=fade is not None, **shape.constants, **tile,
            )  # fmt: skip
        if needs_q:
            d_q = torch.empty_like(q)
            tile = shape.tile(64, 64)
            _backward_queries[(triton.cdiv(n_tokens, tile["ROWS"]), n_batch * n_head)](
                *shared, ctx.spans.first, d_q, ctx.scaling, n_tokens, n_head, HAS_FADE=fade is not None,
                **shape.constants, **tile,
            )  # fmt: skip
        return d_q, d_k, d_v, d_fade, None, None, None


class _Shape:
    """The constants that a kernel is compiled for, and how large its blocks may be."""

    def __init__(self, q: Tensor, k: Tensor) -> None:
        self.width = max(16, triton.next_power_of_2(q.shape[-1]))
        self.constants = {
            "GROUP": q.shape[1] // k.shape[1],
            "D": q.shape[-1],
            "WIDTH": self.width,
            # of products of float32, which would otherwise lose half of their digits
            "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
        }
        self.row_bytes = self.width * q.element_size()  # bytes of a row in shared memory

    def tile(self, rows: int, cols: int) -> dict[str, int]:
        """Queries and keys of a block; smaller where they would overflow the shared memory, 99 KB on consumer cards."""
        if self.row_bytes > 512:
            return {"ROWS": 16, "COLS": 16, "num_warps": 4, "num_stages": 1}
        if self.row_bytes > 256 or self.constants["PRECISION"] == "ieee":
            return {"ROWS": 32, "COLS": 32, "num_warps": 4, "num_stages": 1}
        n_stages = 2 if self.row_bytes <= 128 else 1
        return {"ROWS": rows, "COLS": cols, "num_warps": 8 if rows * self.width > 8192 else 4, "num_stages": n_stages}


@triton.jit
def _rows_of(x, base, rows, step, n_tokens, D: tl.constexpr, WIDTH: tl.constexpr):
    """Rows of D numbers, `step` numbers apart from `base`; zeros beyond the last token and the last number."""
    at = tl.arange(0, WIDTH)
    mask = (rows[:, None] < n_tokens) & (at[None, :] < D)
    return tl.load(x + base + rows[:, None] * step + at[None, :], mask=mask, other=0.0)


@triton.jit
def _store_rows(x, base, rows, values, n_tokens, D: tl.constexpr, WIDTH: tl.constexpr):
    at = tl.arange(0, WIDTH)
    mask = (rows[:, None] < n_tokens) & (at[None, :] < D)
    tl.store(x + base + rows[:, None] * D + at[None, :], values.to(x.dtype.element_ty), mask=mask)


@triton.jit
def _logits(q, k, fade, rows, cols, first, scaling, HAS_FADE: tl.constexpr, PRECISION: tl.constexpr):
    """Logits of a block, faded, with -inf where a key is not seen; and the ages of its cells."""
    logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scaling
    age = (rows[:, None] - cols[None, :]).to(tl.float32)
    if HAS_FADE:
        logits += age * fade[None, :]
    seen = (cols[None, :] <= rows[:, None]) & (cols[None, :] >= first[:, None])
    return tl.where(seen, logits, -float("inf")), age


@triton.jit
def _forward(
    q, k, v, fade, first, sinks, out, lse, scaling, n_tokens, n_head,
    HAS_FADE: tl.constexpr, HAS_SINKS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """A block of queries of one head over all keys that they see."""
    head = tl.program_id(1).to(tl.int64)  # of all batches
    batch, cells = head // n_head, head // GROUP  # heads of a batch are GROUP times its KV heads
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    block_q = _rows_of(q, head * n_tokens * D, rows, D, n_tokens, D, WIDTH)
    seen_from = tl.load(first + batch * n_tokens + rows, mask=rows < n_tokens, other=n_tokens)
    peak = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    if HAS_SINKS:
        peak = tl.zeros([ROWS], tl.float32) + tl.load(sinks + head % n_head).to(tl.float32)
        total = tl.full([ROWS], 1.0, tl.float32)
    mixed = tl.zeros([ROWS, WIDTH], tl.float32)
    start = tl.load(first + batch * n_tokens + tl.program_id(0) * ROWS) // COLS * COLS
    stop = tl.minimum((tl.program_id(0) + 1) * ROWS, n_tokens)
    for at in range(start, stop, COLS):
        cols = at + tl.arange(0, COLS)
        block_k = _rows_of(k, cells * n_tokens * D, cols, D, n_tokens, D, WIDTH)
        block_fade = tl.load(fade + cells * n_tokens + cols, mask=cols < n_tokens, other=0.0) if HAS_FADE else cols
        logits, _ = _logits(block_q, block_k, block_fade, rows, cols, seen_from, scaling, HAS_FADE, PRECISION)
        new_peak = tl.maximum(peak, tl.max(logits, 1))
        finite_peak = tl.where(new_peak == -float("inf"), 0.0, new_peak)  # no key of the block is seen yet
        weights = tl.exp(logits - finite_peak[:, None])
        shrink = tl.exp(peak - finite_peak)
        total = total * shrink + tl.sum(weights, 1)
        block_v = _rows_of(v, cells * n_tokens * D, cols, D, n_tokens, D, WIDTH)
        mixed = mixed * shrink[:, None] + tl.dot(weights.to(block_v.dtype), block_v, input_precision=PRECISION)
        peak = new_peak
    mixed = mixed / total[:, None]
    width = tl.arange(0, WIDTH)
    place = (batch * n_tokens + rows[:, None]) * n_head * D + (head % n_head) * D + width[None, :]
    mask = (rows[:, None] < n_tokens) & (width[None, :] < D)
    tl.store(out + place, mixed.to(out.dtype.element_ty), mask=mask)
    tl.store(lse + head * n_tokens + rows, peak + tl.log(total), mask=rows < n_tokens)


@triton.jit
def _block_gradients(
    q, k, v, fade, d_out, lse, delta, rows, cols, first, scaling, n_tokens, HAS_FADE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The weights of a block, the gradients of its logits, and the ages of its cells; [ROWS, COLS] each."""
    logits, age = _logits(q, k, fade, rows, cols, first, scaling, HAS_FADE, PRECISION)
    inside = rows[:, None] < n_tokens
    weights = tl.where(inside, tl.exp(logits - lse[:, None]), 0.0)
    d_weights = tl.dot(d_out, tl.trans(v), input_precision=PRECISION)
    return weights, weights * (d_weights - delta[:, None]), age


@triton.jit
def _backward_keys(
    q, k, v, fade, d_out, lse, delta, first, last, d_k, d_v, d_fade, scaling, n_tokens, n_head,
    HAS_FADE: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """A block of keys of one KV head, over the queries of its group that see them."""
    cells = tl.program_id(1).to(tl.int64)
    batch = cells * GROUP // n_head
    begin = tl.program_id(0) * COLS
    cols = begin + tl.arange(0, COLS)
    block_k = _rows_of(k, cells * n_tokens * D, cols, D, n_tokens, D, WIDTH)
    block_v = _rows_of(v, cells * n_tokens * D, cols, D, n_tokens, D, WIDTH)
    block_fade = tl.load(fade + cells * n_tokens + cols, mask=cols < n_tokens, other=0.0) if HAS_FADE else cols
    sum_k = tl.zeros([COLS, WIDTH], tl.float32)
    sum_v = tl.zeros([COLS, WIDTH], tl.float32)
    sum_fade = tl.zeros([COLS], tl.float32)
    stop = tl.load(last + batch * n_tokens + tl.minimum(begin + COLS, n_tokens) - 1)
    for member in range(GROUP):
        head = cells * GROUP + member
        for at in range(begin // ROWS * ROWS, stop, ROWS):
            rows = at + tl.arange(0, ROWS)
            block_q = _rows_of(q, head * n_tokens * D, rows, D, n_tokens, D, WIDTH)
            place = batch * n_tokens * n_head * D + (head % n_head) * D
            block_d_out = _rows_of(d_out, place, rows, n_head * D, n_tokens, D, WIDTH)
            block_lse = tl.load(lse + head * n_tokens + rows, mask=rows < n_tokens, other=0.0)
            block_delta = tl.load(delta + head * n_tokens + rows, mask=rows < n_tokens, other=0.0)
            seen_from = tl.load(first + batch * n_tokens + rows, mask=rows < n_tokens, other=n_tokens)
            weights, d_logits, age = _block_gradients(
                block_q, block_k, block_v, block_fade, block_d_out, block_lse, block_delta, rows, cols, seen_from,
                scaling, n_tokens, HAS_FADE, PRECISION,
            )  # fmt: skip
            sum_v += tl.dot(tl.trans(weights).to(block_d_out.dtype), block_d_out, input_precision=PRECISION)
            sum_k += tl.dot(tl.trans(d_logits).to(block_q.dtype), block_q, input_precision=PRECISION)
            if HAS_FADE:
                sum_fade += tl.sum(d_logits * age, 0)
    _store_rows(d_k, cells * n_tokens * D, cols, sum_k * scaling, n_tokens, D, WIDTH)
    _store_rows(d_v, cells * n_tokens * D, cols, sum_v, n_tokens, D, WIDTH)
    if HAS_FADE:
        tl.store(d_fade + cells * n_tokens + cols, sum_fade, mask=cols < n_tokens)


@triton.jit
def _backward_queries(
    q, k, v, fade, d_out, lse, delta, first, d_q, scaling, n_tokens, n_head,
    HAS_FADE: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """A block of queries of one head, over the keys that they see."""
    head = tl.program_id(1).to(tl.int64)
    batch, cells = head // n_head, head // GROUP
    begin = tl.program_id(0) * ROWS
    rows = begin + tl.arange(0, ROWS)
    block_q = _rows_of(q, head * n_tokens * D, rows, D, n_tokens, D, WIDTH)
    place = batch * n_tokens * n_head * D + (head % n_head) * D
    block_d_out = _rows_of(d_out, place, rows, n_head * D, n_tokens, D, WIDTH)
    block_lse = tl.load(lse + head * n_tokens + rows, mask=rows < n_tokens, other=0.0)
    block_delta = tl.load(delta + head * n_tokens + rows, mask=rows < n_tokens, other=0.0)
    seen_from = tl.load(first + batch * n_tokens + rows, mask=rows < n_tokens, other=n_tokens)
    sum_q = tl.zeros([ROWS, WIDTH], tl.float32)
    start = tl.load(first + batch * n_tokens + begin) // COLS * COLS
    for at in range(start, tl.minimum(begin + ROWS, n_tokens), COLS):
        cols = at + tl.arange(0, COLS)
        block_k = _rows_of(k, cells * n_tokens * D, cols, D, n_tokens, D, WIDTH)
        block_v = _rows_of(v, cells * n_tokens * D, cols, D, n_tokens, D, WIDTH)
        block_fade = tl.load(fade + cells * n_tokens + cols, mask=cols < n_tokens, other=0.0) if HAS_FADE else cols
        _, d_logits, _ = _block_gradients(
            block_q, block_k, block_v, block_fade, block_d_out, block_lse, block_delta, rows, cols, seen_from,
            scaling, n_tokens, HAS_FADE, PRECISION,
        )  # fmt: skip
        sum_q += tl.dot(d_logits.to(block_k.dtype), block_k, input_precision=PRECISION)
    _store_rows(d_q, head * n_tokens * D, rows, sum_q * scaling, n_tokens, D, WIDTH)
