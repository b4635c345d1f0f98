"""Changes of a GGUF file that know its format: one value, key, type, length or tensor at a time, all else put right again.

Bytes changed at random seldom get past the header; these reach what is behind it.
"""

from __future__ import annotations

import copy
import math
import random

import numpy as np

from fuzz.mutate import mutate as mutate_bytes
from support.gguf_file import SCALARS, STRING, Entry, GGUFFile, Tensor, build

U32 = 4

# numbers that a careless reader stumbles over: sizes, their neighbours, ends of the integer types
NUMBERS = [
    0, 1, 2, 3, 4, 5, 7, 8, 16, 31, 32, 33, 63, 64, 96, 100, 127, 128, 255, 256, 257, 512, 513, 1000, 1024, 4096, 65535,
    65536, 2**20, 2**24, 2**30, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1,
]  # fmt: skip
FLOATS = [0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, math.inf, -math.inf, math.nan, 2.0**31, -1e9]
TEXTS = [
    b"", b"\0", b"a\0b", b"\xff\xfe", b"llama", b"gpt2", b"bert", b"t5", b"rwkv", b"none", b"no_vocab", b"plamo2", b"yarn",
    b"linear", b"longrope", b"default", b"qwen2", b"llama-bpe", b"adapter", b"model", b" ", b"\n", b"x" * 300, b"<0x0A>",
    b"\xe2\x96\x81", b"[EMPTY_3]", b"\x1b[2J", b"silu", b"gelu", b"relu", b"rg", b"rg10", b"adapter\0x", b"retention_gate",
]  # fmt: skip
KEYS = [
    "tokenizer.ggml.merges", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.padding_token_id", "tokenizer.ggml.pre",
    "tokenizer.ggml.token_type_count", "tokenizer.ggml.suppress_tokens", "tokenizer.ggml.precompiled_charsmap",
    "tokenizer.ggml.add_eos_token", "tokenizer.ggml.mask_token_id", "general.file_type", "general.alignment",
    "general.name", "general.license", "split.count", "split.no", "split.tensors.count", "general.type", "adapter.type",
    "retention_gate.trained_budget", "retention_gate.base_name", "retention_gate.source", "retention_gate.base_fingerprint",
]  # fmt: skip
ARCH_KEYS = [
    "vocab_size", "expert_count", "expert_used_count", "expert_group_count", "expert_group_used_count",
    "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length", "rope.dimension_count",
    "rope.dimension_sections", "rope.freq_base", "attention.sliding_window", "attention.causal", "attention.key_length",
    "attention.value_length", "attention.key_length_swa", "attention.clamp_kqv", "attention.max_alibi_bias",
    "nextn_predict_layers", "leading_dense_block_count", "embedding_length_out", "pooling_type", "attention.scale",
    "attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "residual_scale", "logit_scale",
    "attention.head_count_kv", "attention.head_count", "feed_forward_length", "rope.scaling.attn_factor",
    "attention.temperature_scale", "rope.dimension_count_swa", "decoder_block_count", "interleave_moe_layer_step",
    "embedding_scale", "attention.key_length_mla", "expert_feed_forward_length", "expert_shared_count",
    "expert_weights_scale", "expert_gating_func", "use_parallel_residual", "tensor_data_layout", "features_length",
    "attention.group_norm_groups", "rope.scale_linear", "classifier.output_labels", "context_length",
]  # fmt: skip
ARCHITECTURES = [
    b"llama", b"qwen2", b"qwen3", b"phi2", b"phi3", b"gemma", b"falcon", b"starcoder2", b"gpt2", b"gptneox", b"mpt", b"olmo",
    b"stablelm", b"bloom", b"baichuan", b"internlm2", b"minicpm", b"deepseek", b"deepseek2", b"chatglm", b"command-r",
    b"granite", b"qwen2vl", b"qwen2moe", b"deci", b"exaone", b"nemotron", b"plm", b"orion", b"xverse", b"codeshell", b"arctic",
    b"grok", b"dbrx", b"openelm", b"jais", b"bitnet", b"mistral3", b"smollm3", b"\xff", b"",
]  # fmt: skip
TENSOR_NAMES = [
    b"", b"\0", b"x" * 63, b"x" * 64, b"\xff", b"rope_freqs.weight", b"output.weight", b"output_norm.bias", b"token_types.weight",
    b"position_embd.weight", b"blk.0.attn_q.bias", b"blk.0.ffn_up.bias", b"blk.0.attn_sinks.weight", b"extra",
    b"blk.0.attn_k_norm.weight", b"blk.1.ffn_gate.bias", b"blk.0.retention_mid.weight", b"retention_score.bias",
]  # fmt: skip


def mutate_gguf(rng: np.random.Generator, whole: GGUFFile) -> bytes:
    """A file changed in one to three places, or, one time in five, in its bytes."""
    chooser = random.Random(int(rng.integers(2**63)))
    if chooser.random() < 0.2:
        return mutate_bytes(rng, build(whole))
    file = copy.deepcopy(whole)
    for _ in range(chooser.choice([1, 1, 1, 1, 2, 3])):
        (change,) = chooser.choices(list(_CHANGES), list(_CHANGES.values()))
        change(chooser, file)
    return build(file)


def _other(rng: random.Random, type: int, value: object) -> object:
    """Another value for one of this type."""
    if type == STRING:
        if isinstance(value, bytes) and value and rng.random() < 0.4:
            at = rng.randrange(len(value))
            return value[:at] + bytes([rng.randrange(256)]) + value[at + rng.randrange(2) :]
        return rng.choice(TEXTS)
    kind = rng.randrange(4)
    if isinstance(value, int) and kind < 3:
        near = (value + rng.choice([-2, -1, 1, 2]), value * 2, value ^ (1 << rng.randrange(32)))[kind]
        return near if rng.random() < 0.8 else rng.choice(NUMBERS)
    return rng.choice(FLOATS if SCALARS.get(type) in ("f", "d") else NUMBERS)


def _arch(file: GGUFFile) -> bytes:
    found = [entry.value for entry in file.entries if entry.key == b"general.architecture"]
    return found[0] if found and isinstance(found[0], bytes) else b"llama"


def _change_value(rng: random.Random, file: GGUFFile) -> None:
    entry = rng.choice(file.entries)
    if not entry.is_array:
        entry.value = _other(rng, entry.type, entry.value)
    for _ in range(rng.choice([1, 1, 3, 20]) if entry.is_array and entry.value else 0):
        at = rng.randrange(len(entry.value))
        entry.value[at] = _other(rng, entry.type, entry.value[at])


def _change_scalar(rng: random.Random, file: GGUFFile) -> None:
    entry = rng.choice([entry for entry in file.entries if not entry.is_array])
    entry.value = _other(rng, entry.type, entry.value)


def _change_type(rng: random.Random, file: GGUFFile) -> None:
    entry = rng.choice(file.entries)
    entry.type = rng.choice([*SCALARS, STRING])


def _change_length(rng: random.Random, file: GGUFFile) -> None:
    entry = rng.choice([entry for entry in file.entries if entry.is_array] or file.entries)
    if not entry.is_array:
        entry.is_array, entry.value = True, [entry.value] * rng.choice([0, 1, 2, 3, 4, 100])
    elif rng.random() < 0.6:
        entry.value = entry.value[: rng.choice([0, rng.randrange(len(entry.value) + 1)])]
    else:
        entry.value = entry.value + entry.value[: rng.randrange(len(entry.value) + 1)]


def _give_per_layer(rng: random.Random, file: GGUFFile) -> None:
    """A count given once becomes one for each layer, one of them another."""
    entries = [entry for entry in file.entries if not entry.is_array and entry.type == U32]
    counts = [entry.value for entry in entries if entry.key.endswith(b".block_count") and isinstance(entry.value, int)]
    entry = rng.choice(entries or file.entries)
    entry.is_array, entry.value = True, [entry.value] * (min([*counts, 600]) + rng.choice([0, 0, 0, 1]))
    if entry.value:
        at = rng.randrange(len(entry.value))
        entry.value[at] = _other(rng, U32, entry.value[at])


def _drop_entry(rng: random.Random, file: GGUFFile) -> None:
    file.entries.pop(rng.randrange(len(file.entries)))


def _double_entry(rng: random.Random, file: GGUFFile) -> None:
    entry = copy.deepcopy(rng.choice(file.entries))
    if rng.random() < 0.7:
        entry.key = rng.choice([b"", b"\xff", b"general.alignment", b"general.type", b"split.count", entry.key + b"\0"])
    file.entries.insert(rng.randrange(len(file.entries) + 1), entry)


def _add_key(rng: random.Random, file: GGUFFile) -> None:
    key = _arch(file) + b"." + rng.choice(ARCH_KEYS).encode() if rng.random() < 0.7 else rng.choice(KEYS).encode()
    type = rng.choice([U32, U32, U32, 5, 6, 7, STRING, 2, 10])
    value = _other(rng, type, b"llama" if type == STRING else rng.choice([0, 1, 2, 4, 64, 128]))
    file.entries = [entry for entry in file.entries if entry.key != key]
    is_array = rng.random() < 0.15
    file.entries.append(Entry(key, type, [value] * rng.choice([0, 1, 2, 3, 4]) if is_array else value, is_array))


def _change_architecture(rng: random.Random, file: GGUFFile) -> None:
    """Another architecture, and the keys named for it."""
    old, new = _arch(file), rng.choice(ARCHITECTURES)
    for entry in file.entries:
        if entry.key == b"general.architecture" and entry.type == STRING and not entry.is_array:
            entry.value = new
        elif entry.key.startswith(old + b"."):
            entry.key = new + entry.key[len(old) :]


def _change_alignment(rng: random.Random, file: GGUFFile) -> None:
    alignment = rng.choice([0, 1, 2, 4, 8, 16, 32, 64, 4096, 2**20, 2**24, 3, 33, 2**31])
    file.entries = [entry for entry in file.entries if entry.key != b"general.alignment"]
    file.entries.append(Entry(b"general.alignment", U32, alignment))
    file.alignment = alignment if 0 < alignment <= 2**20 else 32


def _change_version(rng: random.Random, file: GGUFFile) -> None:
    file.version = rng.choice([0, 1, 2, 3, 4, 0x03000000])


def _change_tensor(rng: random.Random, file: GGUFFile) -> None:
    """Its shape, type, place or name."""
    tensor = rng.choice(file.tensors)
    kind = rng.randrange(6)
    if kind == 0 and tensor.shape:
        at = rng.randrange(len(tensor.shape))
        tensor.shape[at] = rng.choice([tensor.shape[at] + 1, tensor.shape[at] - 1, rng.choice(NUMBERS)])
    elif kind == 1:
        tensor.type = rng.choice([*range(45), 2**31, 2**32 - 1])
    elif kind == 2:
        tensor.offset = rng.choice([0, 1, 32, 2**20, 2**63, 2**64 - 1, 2**64 - 32])
    elif kind == 3:
        tensor.name = rng.choice([*TENSOR_NAMES, rng.choice(file.tensors).name, tensor.name + b"\0"])
    elif kind == 4:
        tensor.shape = rng.choice(
            [tensor.shape[::-1], [*tensor.shape, 1], [1, *tensor.shape], [*tensor.shape, 1, 1, 1]]
        )
    else:
        tensor.shape = rng.choice([[], [0], [1], [2**31], [2**62, 2], [0, 0, 0, 0], [1] * 5])


def _exchange_tensor(rng: random.Random, file: GGUFFile) -> None:
    """One goes, or comes, or gets another shape with as many numbers as that needs."""
    kind, at = rng.randrange(3), rng.randrange(len(file.tensors))
    if kind == 0:
        file.tensors.pop(at)
        return
    shape = [rng.choice([1, 2, 16, 31, 32, 64, 128, 256, 300]) for _ in range(rng.randrange(1, 4))]
    data = b"\0" * (4 * math.prod(shape))
    if kind == 1:
        file.tensors[at] = Tensor(file.tensors[at].name, shape, 0, data)
    else:
        file.tensors.insert(at, Tensor(rng.choice(TENSOR_NAMES), shape, 0, data))


def _change_numbers(rng: random.Random, file: GGUFFile) -> None:
    """Some numbers of a tensor, not all of them finite."""
    tensor = rng.choice(file.tensors)
    data = bytearray(tensor.data)
    for _ in range(rng.choice([1, 1, 8]) if len(data) >= 4 else 0):
        at = rng.randrange(len(data) // 4) * 4 + rng.choice([0, 0, 2])
        data[at : at + 4] = rng.choice(
            [b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\xff\xff\xff\xff", b"\0\x7c\0\xfc"]
        )
    tensor.data = bytes(data[: len(tensor.data)])


_CHANGES = {
    _change_value: 6, _change_scalar: 20, _change_type: 5, _change_length: 8, _give_per_layer: 8, _drop_entry: 4,
    _double_entry: 3, _add_key: 24, _change_architecture: 6, _change_tensor: 10, _exchange_tensor: 5, _change_numbers: 4,
    _change_version: 1, _change_alignment: 2,
}  # fmt: skip
