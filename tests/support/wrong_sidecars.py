"""Sidecars that are wrong in one way, which every reader must refuse."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from retain_local.gates import GateSet
from support.tiny_gates import random_gates
from support.tiny_models import TinyModel

# the model that the gates would fit
BASE = TinyModel("llama", n_layer=3, n_embd=96, n_head=4, n_head_kv=2)


def gates_of(variant: str = "rg10", tied: bool = True) -> GateSet:
    """Gates for `BASE`."""
    return random_gates(n_layer=3, n_embd=96, n_head_kv=2, variant=variant, tied=tied, n_ff=64)


def version_1() -> dict[str, object]:
    """The metadata of `gates_of()` as version 1 has it."""
    gates = gates_of()
    return {
        "general.type": "adapter",
        "adapter.type": "retention_gate",
        "retention_gate.version": 1,
        "retention_gate.variant": "rg10",
        "retention_gate.tied": True,
        "retention_gate.block_count": gates.n_layer,
        "retention_gate.embedding_length": gates.n_embd,
        "retention_gate.feed_forward_length": gates.n_ff,
        "retention_gate.head_count_kv": gates.heads[0],
        "retention_gate.activation": "silu",
    }


def version_2() -> dict[str, object]:
    """The same as version 2 has it."""
    return version_1() | {
        "retention_gate.version": 2,
        "retention_gate.layers": [0, 1, 2],
        "retention_gate.head_count_kv": [2, 2, 2],
        "retention_gate.score": "decay",
    }


def write_changed_sidecar(path: Path, fields: dict[str, object], tensors: dict[str, np.ndarray | None]) -> None:
    """A sidecar of rg10, tied, f32, with metadata and tensors replaced, or left out where None.

    It is of version 2 where the fields say so.
    """
    metadata = (version_2() if fields.get("retention_gate.version") == 2 else version_1()) | fields
    writer = gguf.GGUFWriter(path, "llama")
    adders = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    for key, value in metadata.items():
        if isinstance(value, list):
            kind = gguf.GGUFValueType.UINT32 if all(n >= 0 for n in value) else gguf.GGUFValueType.INT32
            writer.add_key_value(key, value, gguf.GGUFValueType.ARRAY, sub_type=kind)
        elif value is not None:
            adders[type(value)](key, value)
    for name, array in {**dict(gates_of().tensors()), **tensors}.items():
        if array is not None:
            writer.add_tensor(name, np.asarray(array, np.float32) if array.dtype == np.float64 else array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# metadata to change, tensors to change, what the message of our reader says
WRONG_SIDECARS = [
    ({"general.type": "model"}, {}, "not a gate sidecar"),
    ({"adapter.type": "lora"}, {}, "not a gate sidecar"),
    ({"retention_gate.version": 3}, {}, "version 3 is not supported"),
    ({"retention_gate.version": None}, {}, "'retention_gate.version' is missing"),
    ({"retention_gate.version": 1.0}, {}, "'retention_gate.version' has the wrong type"),
    ({"retention_gate.variant": "rg11"}, {}, "variant 'rg11' is not one of"),
    ({"retention_gate.variant": "rg"}, {}, "cannot be tied"),
    ({"retention_gate.activation": "exp"}, {}, "activation 'exp' is not one of"),
    ({"retention_gate.tied": 1}, {}, "'retention_gate.tied' has the wrong type"),
    ({"retention_gate.tied": False}, {}, "'blk.0.retention_score.weight' is missing"),
    ({"retention_gate.block_count": 0}, {}, "block_count 0 is out of range"),
    ({"retention_gate.block_count": 2**31}, {}, "block_count 2147483648 is out of range"),
    ({"retention_gate.block_count": 4}, {}, "'blk.3.retention_in.weight' is missing"),
    ({"retention_gate.block_count": 2}, {}, "unexpected tensor 'blk.2"),
    ({"retention_gate.embedding_length": 64}, {}, r"shape \[96, 64\], expected \[64, 64\]"),
    ({"retention_gate.head_count_kv": 4}, {}, r"shape \[64, 2\], expected \[64, 4\]"),
    ({"retention_gate.base_fingerprint": "0123"}, {}, "not 16 hex digits"),
    ({}, {"retention_score.bias": None}, "'retention_score.bias' is missing"),
    ({}, {"retention_score.bias": np.zeros(3)}, r"shape \[3\], expected \[2\]"),
    ({}, {"retention_score.bias": np.zeros(2, np.float16)}, "ggml type 1, expected f32"),
    ({}, {"retention_score.weight": np.zeros((2, 64), np.int32)}, "ggml type 26, expected f32 or f16 or q8_0"),
    ({}, {"retention_score.weight": np.full((2, 64), np.inf)}, "not finite"),
    ({}, {"extra.weight": np.zeros(2)}, "unexpected tensor 'extra.weight'"),
    *(
        ({"retention_gate.version": 2, f"retention_gate.{key}": value}, {}, message)
        for key, value, message in (
            ("layers", None, "'retention_gate.layers' is missing"),
            ("layers", 3, "'retention_gate.layers' has the wrong type"),
            ("layers", [0, 1, -2], "'retention_gate.layers' has the wrong type"),
            ("layers", [0, 1], "names 2 layers and the KV heads of 3"),
            ("layers", [0, 2, 1], "not ascending"),
            ("layers", [0, 1, 1], "not ascending"),
            ("layers", [0, 1, 3], "not among the 3 of the model"),
            ("head_count_kv", 2, "'retention_gate.head_count_kv' has the wrong type"),
            ("head_count_kv", [2, 2, 0], "head_count_kv is out of range"),
            ("head_count_kv", [2, 2, 1], "tied gates need the same number of KV heads"),
            ("score", None, "'retention_gate.score' is missing"),
            ("score", "best", "score 'best' is not one of decay, static"),
            ("score", "static", "variant rg10 have no static scores"),
            ("variant", "linear", "'blk.0.retention_score.weight' is missing"),
            ("variant", "fast_kvzip", "key_length' is missing"),
            ("activation", "exp", "activation 'exp' is not one of"),
            ("window", 2**25, "window 33554432 is out of range"),
            ("window", "wide", "'retention_gate.window' has the wrong type"),
            ("trained_on", 3, "'retention_gate.trained_on' has the wrong type"),
        )
    ),
    (
        {"retention_gate.version": 2, "retention_gate.variant": "fast_kvzip", "retention_gate.score": "static"},
        {},
        "'retention_gate.key_length' is missing",
    ),
    ({"retention_gate.activation": "gelu_erf"}, {}, "activation 'gelu_erf' is not one of silu, gelu, relu"),
]
