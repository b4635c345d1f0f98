"""A tensor of a checkpoint as a place in a file, looked into before its numbers are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .layout import CheckpointError

# how each type lies in a file; bfloat16, which NumPy has not, as the upper half of a float32
DTYPES = {
    "float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "u2",
    "int64": "i8", "int32": "i4", "int16": "i2", "int8": "i1", "uint8": "u1", "bool": "u1",
}  # fmt: skip
FLOATS = ("float64", "float32", "float16", "bfloat16")
MAX_DIMS = 8


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor's numbers are.

    path : the file.
    start, n_stored : first byte, and count, of the stored numbers that the tensor is cut from; within the file.
    dtype : a key of `DTYPES`, or the name of another type, which is not read.
    shape : of the tensor.
    strides : numbers from one index to the next of each dimension.
    offset : of the tensor's first number among the stored ones.
    order : "<" or ">", the order of the bytes.
    """

    path: Path
    start: int
    n_stored: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    order: str = "<"

    def __post_init__(self) -> None:
        """Raise CheckpointError unless all of the tensor lies within its stored numbers."""
        counts = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or len(self.shape) > MAX_DIMS or min(counts) < 0:
            raise CheckpointError(f"{self.path}: the file is damaged: a tensor has shape {list(self.shape)[:MAX_DIMS]}")
        # a tensor that names a number more than once could be larger than the file
        if self.size and (self.size > self.n_stored or self.offset + self._extent > self.n_stored):
            raise CheckpointError(f"{self.path}: the file is damaged: a tensor reaches beyond its stored numbers")

    @property
    def size(self) -> int:
        """Count of the tensor's numbers."""
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Bytes of the tensor's numbers; 0 for a type that is not read."""
        return self.size * int(DTYPES.get(self.dtype, "u0")[1:])

    @property
    def _extent(self) -> int:
        """Stored numbers from the tensor's first to its last."""
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.strides)) if self.size else 0

    def read(self) -> np.ndarray:
        """The numbers, in C order; float16, float32 and float64 as stored, bfloat16 as float32.

        Raises
        ------
        CheckpointError : the type is not a float, or the file cannot be read.
        """
        if self.dtype not in FLOATS:
            raise CheckpointError(
                f"{self.path}: a gate has numbers of {self.dtype[:40]}, not one of {', '.join(FLOATS)}"
            )
        stored = np.dtype(self.order + DTYPES[self.dtype])
        try:
            flat = np.fromfile(self.path, stored, self._extent, offset=self.start + self.offset * stored.itemsize)
        except OSError as error:
            raise CheckpointError(f"{self.path}: {error.strerror or error}") from None
        if flat.size != self._extent:
            raise CheckpointError(f"{self.path}: the file changed while it was read")
        steps = [step * stored.itemsize for step in self.strides]
        array = np.lib.stride_tricks.as_strided(flat, self.shape, steps, writeable=False)
        if self.dtype == "bfloat16":
            return np.asarray(array.astype(np.uint32, order="C") << 16).view(np.float32)
        return array.astype(stored.newbyteorder("="), order="C")


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a tensor whose numbers lie in C order without gaps."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
