"""Quantised files of tiny models, the same weights as float32 again, and what a product rounds its activations to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from gguf.quants import dequantize

from support.llama_session import logged_errors

BLOCK = 32  # numbers of a block of Q4_0, Q4_1, Q5_0 and Q8_0
K_BLOCK = 256  # of the K types and of IQ4_XS


@dataclass(frozen=True)
class WeightType:
    """A type of weights.

    file_type : llama.cpp's number of a file of it (`enum llama_ftype`).
    activations : the type that a product rounds its activations to.
    is_pure : all weights are of one type; otherwise llama.cpp mixes types as it does for published files.
    """

    file_type: int
    activations: str
    is_pure: bool = True


WEIGHT_TYPES = {
    "Q4_0": WeightType(llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, "q8_0"),
    "Q4_1": WeightType(llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_1, "q8_1"),
    "Q5_0": WeightType(llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_0, "q8_0"),
    "Q8_0": WeightType(llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "q8_0"),
    "Q4_K": WeightType(llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_S, "q8_k"),
    "Q5_K": WeightType(llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_S, "q8_k"),
    "Q6_K": WeightType(llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K, "q8_k"),
    "IQ4_XS": WeightType(llama_cpp.LLAMA_FTYPE_MOSTLY_IQ4_XS, "q8_k"),
}
# what most published files are: Q4_K with Q6_K where it matters most
MIXED = WeightType(llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M, "q8_k", is_pure=False)
FLOAT = WeightType(llama_cpp.LLAMA_FTYPE_ALL_F32, "f32")


def quantise(source: Path, target: Path, weight_type: WeightType) -> Path:
    """Write a model in another type of weights, by llama.cpp itself: gguf-py cannot make K types."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.pure, params.nthread = weight_type.file_type, weight_type.is_pure, 1
    params.allow_requantize = True
    with logged_errors() as errors:
        status = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), params)
    assert status == 0, errors
    return target


def dequantised(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Names and float32 arrays ([n_out, n_in]) of all tensors of a model, by gguf-py's own reading of the types."""
    for tensor in gguf.GGUFReader(path).tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        yield tensor.name, values.reshape([int(n) for n in reversed(tensor.shape)])


def rounded(rows: np.ndarray, activations: str) -> np.ndarray:
    """Rows [n, n_in] f32 after rounding to the type that a product reads its activations in.

    The last bit of a scale differs from CPU to CPU, which rounds one number in some ten thousand to the next step.
    """
    blocks = rows.reshape(-1, K_BLOCK if activations == "q8_k" else BLOCK)
    if activations == "q8_k":
        largest = np.take_along_axis(blocks, np.abs(blocks).argmax(1, keepdims=True), 1)
        scale = np.float32(-127) / largest
        step = 1 / scale
    else:  # q8_1 is q8_0 with the sum of each block beside it
        scale = np.float32(127) / np.abs(blocks).max(1, keepdims=True)
        step = (1 / scale).astype(np.float16).astype(np.float32)
    return (np.minimum(127, np.rint(scale * blocks)) * step).reshape(rows.shape)
