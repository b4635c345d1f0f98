"""Sizes and vocabulary of a model, checked before llama.cpp sees the file.

llama.cpp trusts much of what a model says about itself: where that is wrong it stops the whole process, divides by zero or
takes all memory. Only what it could not load is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..errors import RetainError
from .gguf_header import GGML_TYPES, STRING, Header, TensorInfo

MAX_LAYERS, MAX_EXPERTS = 512, 1024  # the sizes of llama.cpp's own arrays
# architectures whose graph needs the weights of queries, keys and values, and whose loader does not ask for them
_OPTIONAL_QKV = {"phi3", "pockettts"}
_QKV = (("qkv",), ("q", "k", "v"))
# types by their ggml numbers: those of vectors that are added or multiplied (f32, f16, bf16), and those of whole numbers
# and f64, which no weight can have but in architectures whose weights hold tables of token numbers
_VECTOR_TYPES, _INTEGERS = {0, 1, 30}, {24, 25, 26, 27, 28}
_WITH_TABLES = {"deepseek4", "dflash", "eagle3"}
_ROPE_SCALINGS = {"none", "linear", "yarn", "longrope"}


def check_model(header: Header, arch: str, tensors: Mapping[str, TensorInfo]) -> None:
    """Raise RetainError for a model that llama.cpp would not survive.

    Parameters
    ----------
    header : of the model; of a split one the first file's.
    arch : its architecture, which the keys begin with.
    tensors : all of them by name, those of the other parts of a split model included.
    """
    n_layer = _within(header, f"{arch}.block_count", 1, MAX_LAYERS)
    if n_layer is None:
        raise RetainError(f"{header.path}: the file does not say how many layers and heads the model has")
    _within(header, f"{arch}.nextn_predict_layers", 0, n_layer)
    _within(header, f"{arch}.embedding_length", 1, 2**31 - 1)
    _check_experts(header, arch, n_layer)
    _check_heads(header, arch, n_layer)
    scaling = _get(header, f"{arch}.rope.scaling.type", STRING)
    if scaling is not None and scaling not in _ROPE_SCALINGS:
        raise RetainError(f"{header.path}: {arch}.rope.scaling.type '{scaling}' is not one that llama.cpp knows")
    for key in ("layer_norm_epsilon", "layer_norm_rms_epsilon", "group_norm_epsilon"):
        field = header.fields.get(f"{arch}.attention.{key}")
        if field is not None and isinstance(field.value, float) and not field.value >= 0:
            raise RetainError(f"{header.path}: {arch}.attention.{key} is {field.value:g}, and must not be below 0")
    _check_vocabulary(header)
    _check_tensors(header, arch, n_layer, tensors)


def _check_tensors(header: Header, arch: str, n_layer: int, tensors: Mapping[str, TensorInfo]) -> None:
    for name, info in tensors.items():
        allowed = _VECTOR_TYPES if _is_vector(name) else GGML_TYPES.keys() - _INTEGERS
        if name.endswith((".weight", ".bias")) and info.type not in allowed and arch not in _WITH_TABLES:
            raise RetainError(
                f"{header.path}: tensor '{name}' has type {info.type}, which llama.cpp cannot compute with"
            )
    for il in range(n_layer if arch in _OPTIONAL_QKV and tensors else 0):
        names = [{f"blk.{il}.attn_{part}.weight" for part in parts} for parts in _QKV]
        if not any(each <= tensors.keys() for each in names):
            raise RetainError(f"{header.path}: layer {il} has no weights for queries, keys and values")


def half_vector(tensors: Mapping[str, TensorInfo]) -> str:
    """The name of a norm or bias that is not in f32; "" when there is none."""
    return next((name for name, info in tensors.items() if _is_vector(name) and info.type != 0), "")


def _is_vector(name: str) -> bool:
    """Whether a tensor is one that is added or multiplied with, number by number."""
    return name.endswith(".bias") or "norm" in name


def _check_experts(header: Header, arch: str, n_layer: int) -> None:
    n_expert = _within(header, f"{arch}.expert_count", 0, MAX_EXPERTS) or 0
    if arch.startswith("hunyuan") and n_expert <= 1:
        return
    n_used = max(per_layer(header, f"{arch}.expert_used_count", n_layer, (0,) * n_layer))
    if n_used > n_expert or (n_expert > 0 and n_used == 0):
        raise RetainError(f"{header.path}: {n_used} of {n_expert} experts cannot be used at once")
    n_groups = _within(header, f"{arch}.expert_group_count", 0, max(0, n_expert - 1)) or 0
    if n_groups > 1:
        _within(header, f"{arch}.expert_group_used_count", 1, n_groups - 1)
        if n_expert % n_groups:
            raise RetainError(f"{header.path}: {n_expert} experts cannot be divided into {n_groups} groups")


def _check_heads(header: Header, arch: str, n_layer: int) -> None:
    n_embd = count(header, f"{arch}.embedding_length") or 0
    n_head = per_layer(header, f"{arch}.attention.head_count", n_layer, (0,) * n_layer)
    n_head_kv = per_layer(header, f"{arch}.attention.head_count_kv", n_layer, n_head)
    for n, n_kv in zip(n_head, n_head_kv):
        if n_kv and (n == 0 or n % n_kv):
            raise RetainError(f"{header.path}: {n} heads cannot share {n_kv} KV heads")
    head = n_embd // n_head[0] if n_head[0] else 0
    head_k = count(header, f"{arch}.attention.key_length") or head
    n_rot = count(header, f"{arch}.rope.dimension_count")
    if n_rot is not None and head_k and (n_rot > head_k or n_rot % 2):
        raise RetainError(f"{header.path}: {n_rot} of the {head_k} numbers of a head cannot be rotated")


def _check_vocabulary(header: Header) -> None:
    """llama.cpp stops where two tokens have one text."""
    field = header.fields.get("tokenizer.ggml.tokens")
    if field is None or not field.is_array or field.type != STRING:
        return
    texts = [raw.split(b"\0", 1)[0] or b"[EMPTY_%d]" % i for i, raw in enumerate(field.value)]
    if len(set(texts)) == len(texts):
        return
    first: dict[bytes, int] = {}
    for i, token in enumerate(texts):
        if (other := first.setdefault(token, i)) != i:
            raise RetainError(f"{header.path}: the tokens {other} and {i} of the vocabulary have the same text")


def count(header: Header, key: str) -> int | None:
    """A count given as one number of any integer type; None when absent."""
    field = header.fields.get(key)
    if field is None or field.is_array:
        return None
    if not isinstance(field.value, int) or not 0 <= field.value < 2**32:
        raise RetainError(f"{header.path}: metadata key '{key}' is not a count")
    return field.value


def per_layer(header: Header, key: str, n_layer: int, default: tuple[int, ...]) -> tuple[int, ...]:
    """A count that a file gives once or once per layer."""
    field = header.fields.get(key)
    if field is None:
        return default
    if not field.is_array:
        return (count(header, key) or 0,) * n_layer
    values = tuple(field.value.tolist()) if isinstance(field.value, np.ndarray) else ()
    if len(values) != n_layer or not all(isinstance(value, int) and 0 <= value < 2**32 for value in values):
        raise RetainError(f"{header.path}: metadata key '{key}' is not a count per layer")
    return values


def _within(header: Header, key: str, least: int, most: int) -> int | None:
    """A count between two bounds; None when absent."""
    value = count(header, key)
    if value is not None and not least <= value <= most:
        raise RetainError(f"{header.path}: metadata key '{key}' is {value}; llama.cpp takes {least} to {most}")
    return value


def _get(header: Header, key: str, type: int) -> str | None:
    """A value, left to llama.cpp where it has another type."""
    field = header.fields.get(key)
    return header.get(key, type) if field is not None and field.type == type and not field.is_array else None
