"""Check the kernels of `gates train` on this machine's GPU, and time them against plain PyTorch.

    python docs/tools/check_train_kernels.py

Prints for each case the largest relative difference of the output and of the gradients from a computation in float64, of the
kernels and of plain PyTorch in the same type, and ends with status 1 where the kernels are more than four times as far off.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from retain_local.gates.train.attention import blockwise_attention, fading_attention
from retain_local.gates.train.capacity import blockwise_left, cells_left
from retain_local.gates.train.spans import Spans, spans_of
from retain_local.gates.train.triton_kernels import has_kernels

BF16, F32 = torch.bfloat16, torch.float32
# head size, tokens, KV heads, query heads of each, window, sink logits, type
CASES = (
    (64, 1500, 3, 3, None, False, F32),
    (64, 2048, 3, 3, None, False, BF16),
    (96, 700, 2, 1, None, False, BF16),
    (128, 900, 2, 4, 300, True, BF16),
    (256, 600, 1, 4, None, False, BF16),
    (256, 600, 1, 4, 128, False, BF16),
)
LEAST = 1e-5  # differences below it are rounding of float32, whichever is larger
WORSE = 4


def main() -> int:
    if not torch.cuda.is_available() or not has_kernels(torch.zeros(1, device="cuda")):
        print("PyTorch finds no GPU with Triton here")
        return 1
    torch.manual_seed(0)
    print(torch.cuda.get_device_name(), torch.__version__)
    n_wrong = sum(not _check(*case) for case in CASES) + (not _check_left())
    _time_layer()
    return 1 if n_wrong else 0


def _check(
    size: int, n_tokens: int, n_head_kv: int, group: int, window: int | None, has_sinks: bool, dtype: torch.dtype
) -> bool:
    q, k, v = (
        torch.randn(2, heads, n_tokens, size, device="cuda", dtype=dtype, requires_grad=True)
        for heads in (n_head_kv * group, n_head_kv, n_head_kv)
    )
    log_beta = (-torch.rand(2, n_tokens, n_head_kv, device="cuda") * 0.1).requires_grad_()
    sinks = torch.randn(n_head_kv * group, device="cuda") if has_sinks else None
    spans = spans_of(_documents(2, n_tokens), window)
    weight = torch.randn(2, n_tokens, n_head_kv * group, size, device="cuda", dtype=dtype)
    inputs = (q, k, v, log_beta)
    exact = tuple(x.detach().double().requires_grad_() for x in inputs)
    wanted = _with_gradients(blockwise_attention(*exact, spans, size**-0.5, sinks), weight.double(), exact)
    kernel = _with_gradients(fading_attention(*inputs, spans, size**-0.5, sinks), weight, inputs)
    plain = _with_gradients(blockwise_attention(*inputs, spans, size**-0.5, sinks), weight, inputs)
    found, others = ([_difference(a, b) for a, b in zip(arrays, wanted)] for arrays in (kernel, plain))
    name = f"head size {size}, window {window}, sinks {has_sinks}, {str(dtype).removeprefix('torch.')}"
    return _report(name, found, others)


def _check_left() -> bool:
    documents = _documents(2, 1000)
    log_betas = [(-torch.rand(2, 1000, 3, device="cuda") * 0.1).requires_grad_() for _ in range(4)]
    weight = torch.randn(2, 1000, device="cuda")
    fade = torch.cat(log_betas, dim=2).transpose(1, 2)
    exact = fade.detach().double().requires_grad_()
    spans = spans_of(documents)
    wanted = _with_gradients(blockwise_left(exact, spans), weight.double(), (exact,))
    kernel = _with_gradients(cells_left(log_betas, spans), weight, log_betas)
    joined = [kernel[0], torch.cat(kernel[1:], dim=2).transpose(1, 2)]
    plain = _with_gradients(blockwise_left(fade, spans), weight, (fade,))
    return _report("capacity", *([_difference(a, b) for a, b in zip(x, wanted)] for x in (joined, plain)))


def _documents(n_batch: int, n_tokens: int) -> Tensor:
    documents = torch.zeros(n_batch, n_tokens, dtype=torch.long, device="cuda")
    documents[:, n_tokens // 3 :] = 1
    documents[0, n_tokens - 7 :] = -1
    return documents


def _with_gradients(output: Tensor, weight: Tensor, inputs: tuple[Tensor, ...] | list[Tensor]) -> list[Tensor]:
    return [output, *torch.autograd.grad((output * weight).sum(), inputs, retain_graph=True)]


def _difference(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()


def _report(name: str, found: list[float], others: list[float]) -> bool:
    is_right = all(a <= max(LEAST, WORSE * b) for a, b in zip(found, others))
    figures = "  ".join(f"{a:.1e}/{b:.1e}" for a, b in zip(found, others))
    print(f"{name}: kernel/plain {figures}{'' if is_right else '  TOO FAR'}")
    return is_right


def _time_layer() -> None:
    """A layer of SmolLM2-135M, 4 rows of 4,096 tokens, forward and backward."""
    q, k, v = (torch.randn(4, n, 4096, 64, device="cuda", dtype=BF16, requires_grad=True) for n in (9, 3, 3))
    log_beta = (-torch.rand(4, 4096, 3, device="cuda") * 0.1).requires_grad_()
    spans = spans_of(torch.zeros(4, 4096, dtype=torch.long, device="cuda"))
    weight = torch.randn(4, 4096, 9, 64, device="cuda", dtype=BF16)

    def seconds(attend: Callable[[Tensor, Tensor, Tensor, Tensor, Spans, float], Tensor], n: int) -> float:
        for at in range(n + 1):
            if at == 1:  # the first one compiles
                torch.cuda.synchronize()
                start = time.perf_counter()
            torch.autograd.grad(attend(q, k, v, log_beta, spans, 0.125), (q, k, v, log_beta), weight)
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / n

    kernel, plain = seconds(fading_attention, 10), seconds(blockwise_attention, 3)
    print(
        f"a layer, 4 rows of 4,096: kernel {1e3 * kernel:.1f} ms, plain {1e3 * plain:.1f} ms, {plain / kernel:.0f} times"
    )


if __name__ == "__main__":
    sys.exit(main())
