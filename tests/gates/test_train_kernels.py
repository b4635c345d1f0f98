"""The kernels of training, run by Triton's interpreter, against plain PyTorch and T x T matrices.

`docs/tools/check_train_kernels.py` does the same on a GPU, in bf16 as well.
"""

from __future__ import annotations

import pytest
import torch

from retain_local.gates.train.attention import blockwise_attention
from retain_local.gates.train.capacity import blockwise_left
from retain_local.gates.train.spans import spans_of
from support.direct_objective import direct_attention

pytest.importorskip("triton", reason="Triton is there on Linux alone")

from retain_local.gates.train.attention_kernel import kernel_attention
from retain_local.gates.train.capacity_kernel import kernel_left


def make_documents(n_batch: int, n_tokens: int) -> torch.Tensor:
    documents = torch.zeros(n_batch, n_tokens, dtype=torch.long)
    documents[:, n_tokens // 3 :] = 1
    documents[0, n_tokens - 5 :] = -1
    return documents


def compare(found: torch.Tensor, expected: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    weight = torch.randn_like(expected)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad((output * weight).sum(), inputs) for output in (found, expected)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * b.abs().max().item())


@pytest.mark.parametrize(
    "n_head, n_head_kv, n_tokens, size, window, has_sinks, fades",
    [
        (4, 2, 70, 16, None, False, True),  # a block that is not full
        (3, 1, 40, 24, None, True, True),  # a head size that is no power of two
        (2, 2, 90, 16, 40, False, False),  # a window, whose layers do not fade
        (2, 1, 80, 16, 9, True, False),
    ],
)
def test_attention(
    n_head: int, n_head_kv: int, n_tokens: int, size: int, window: int | None, has_sinks: bool, fades: bool
) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, heads, n_tokens, size, requires_grad=True) for heads in (n_head, n_head_kv, n_head_kv))
    log_beta = (-torch.rand(2, n_tokens, n_head_kv)).requires_grad_() if fades else None
    sinks = torch.randn(n_head) if has_sinks else None
    spans = spans_of(make_documents(2, n_tokens), window)
    found = kernel_attention(q, k, v, log_beta, spans, 0.4, sinks)
    expected = blockwise_attention(q, k, v, log_beta, spans, 0.4, sinks)
    compare(found, expected, [q, k, v, *([] if log_beta is None else [log_beta])])


def test_attention_is_the_direct_form() -> None:
    torch.manual_seed(1)
    q, k, v = (torch.randn(1, heads, 50, 16, requires_grad=True) for heads in (4, 2, 2))
    log_beta = (-torch.rand(1, 50, 2)).requires_grad_()
    found = kernel_attention(q, k, v, log_beta, spans_of(torch.zeros(1, 50, dtype=torch.long)), 0.3, None)
    compare(found, direct_attention(q[0], k[0], v[0], log_beta[0], 0.3)[None], [q, k, v, log_beta])


def test_what_is_left_of_the_cells() -> None:
    torch.manual_seed(2)
    fade = (-torch.rand(2, 6, 200) * 0.3).requires_grad_()
    spans = spans_of(make_documents(2, 200))
    compare(kernel_left(fade, spans), blockwise_left(fade, spans), [fade])
