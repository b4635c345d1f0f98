"""A saved state of one sequence, taken apart: which cells it holds, with their keys."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import gguf
import numpy as np

from support.tiny_models import TinyModel

N_PREFIX = 8  # llama.cpp's magic number and the sequence
N_HEADER = 32
KEY_TYPES = {name: getattr(gguf.GGMLQuantizationType, name.upper()) for name in ("f32", "f16", "bf16", "q8_0", "q4_0")}


@dataclass
class SavedStream:
    """Cells of one (layer, KV head) in order of the tokens: pos, ordinal [n] int32, keys [n, head_size] float64."""

    pos: np.ndarray
    ordinal: np.ndarray
    keys: np.ndarray


@dataclass
class SavedSequence:
    """A sequence: its streams by (layer, head), and the ordinals of the queries kept with it."""

    streams: dict[tuple[int, int], SavedStream]
    query_ordinal: list[int]


def read_sequence(state: bytes, shape: TinyModel, cell_type: str) -> SavedSequence:
    """Read what `llama_state_seq_get_data` gave for cells of `cell_type` ("q8_0", or "q8_0/f16" for K and V)."""
    reader = _Reader(state, N_PREFIX + N_HEADER)
    assert reader.take("<q") == (1,)
    reader.take("<iiiqiB")
    (n_pins,) = reader.take("<q")
    reader.take(f"<{2 * n_pins}i")
    query_ordinal = []
    for _ in range(*reader.take("<q")):
        _, ordinal = reader.take("<ii")
        query_ordinal.append(ordinal)
        reader.skip(4 * shape.n_layer * shape.n_embd_q)

    type_k, _, type_v = cell_type.partition("/")
    n_bytes_k = _row_bytes(shape.head_size, type_k)
    n_bytes = n_bytes_k + _row_bytes(shape.head_size, type_v or type_k)
    streams = {}
    for il in range(shape.n_layer):
        for head in range(shape.n_head_kv):
            (n,) = reader.take("<q")
            pos, ordinal = reader.array(np.int32, n), reader.array(np.int32, n)
            reader.skip(4 * n)
            rows = reader.array(np.uint8, n * n_bytes).reshape(n, n_bytes)[:, :n_bytes_k]
            order = np.argsort(ordinal)
            streams[il, head] = SavedStream(pos[order], ordinal[order], _keys(rows[order], shape.head_size, type_k))
    assert reader.take("<B") == (0,)  # there is no archive
    assert reader.at == len(state)
    return SavedSequence(streams, query_ordinal)


def _row_bytes(n: int, cell_type: str) -> int:
    block, n_bytes = gguf.GGML_QUANT_SIZES[KEY_TYPES[cell_type]]
    return n // block * n_bytes


def _keys(rows: np.ndarray, head_size: int, cell_type: str) -> np.ndarray:
    """Keys of stored rows, [n, head_size] float64, turned back where quantised ones are turned."""
    keys = gguf.quants.dequantize(rows, KEY_TYPES[cell_type]).reshape(len(rows), head_size).astype(np.float64)
    if not cell_type.startswith("q") or head_size % 64:
        return keys
    side = head_size & -head_size  # the largest power of two that divides it
    hadamard = np.ones((1, 1))
    while len(hadamard) < side:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    return (keys.reshape(-1, side) @ hadamard / np.sqrt(side)).reshape(keys.shape)


class _Reader:
    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def skip(self, n: int) -> None:
        self.at += n

    def take(self, layout: str) -> tuple:
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return values

    def array(self, dtype: type, n: int) -> np.ndarray:
        values = np.frombuffer(self.data, dtype, n, self.at)
        self.at += values.nbytes
        return values
