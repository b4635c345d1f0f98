"""Whether kernels in Triton can be used. PyTorch brings Triton along where it can use a GPU of NVIDIA or AMD."""

from __future__ import annotations

import importlib.util
from functools import cache

from torch import Tensor


def has_kernels(x: Tensor) -> bool:
    """Whether kernels can compute with a tensor where it lies."""
    return x.is_cuda and _has_triton()


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
