"""A state of stock llama.cpp as deep as wanted, made of a short one's rows.

To read 32k tokens takes stock llama.cpp the better part of an hour on two cores, and what attention costs afterwards does
not depend on what was read. The layout is that of `llama_context::state_seq_get_data` and `llama_kv_cache::state_write` in
the pinned release.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from ..errors import RetainError

_HEADER = 8  # a magic number and the sequence
_META = np.dtype([("pos", "<i4"), ("n_seq", "<u4"), ("seq", "<i4")])


def filled_state(sample: npt.NDArray[np.uint8], n: int) -> npt.NDArray[np.uint8]:
    """A sequence's state of n cells at positions 0 to n - 1, uint8 [bytes].

    Parameters
    ----------
    sample : state of a sequence with at least one cell, K and V by rows, uint8 [bytes].

    Raises
    ------
    RetainError : the sample has another layout.
    """
    data = memoryview(sample.tobytes())
    n_stream, n_cells = struct.unpack_from("<II", data, _HEADER)
    at = _HEADER + 8 + n_cells * _META.itemsize
    v_trans, n_layer = struct.unpack_from("<II", data, at)
    if n_stream != 1 or v_trans or not n_cells:
        raise RetainError("the state of stock llama.cpp has another layout than expected: no depth can be filled")
    meta = np.zeros(n, _META)
    meta["pos"], meta["n_seq"] = np.arange(n), 1
    parts = [
        sample[:_HEADER],
        np.frombuffer(struct.pack("<II", 1, n), np.uint8),
        meta.view(np.uint8),
        sample[at : at + 8],
    ]
    at += 8
    for _ in range(2 * n_layer):
        _, n_row = struct.unpack_from("<iQ", data, at)
        parts.append(sample[at : at + 12])
        at += 12
        rows = sample[at : at + n_cells * n_row].reshape(n_cells, n_row)
        parts.append(np.resize(rows, (n, n_row)).reshape(-1))
        at += rows.size
    if at != sample.size:
        raise RetainError("the state of stock llama.cpp has another layout than expected: no depth can be filled")
    return np.concatenate(parts)
