"""Tiny models of many architectures with random weights, as GGUF files that llama.cpp loads.

Weights are f32, so that cells are the only rounding. What attention reads weighs as much as the token itself, so the
cache decides the next token. The seeds are ones with which float noise does not: stock llama.cpp writes the same 256
tokens with and without flash attention, and its two best logits never come near each other.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np

N_CTX_TRAIN = 4096
N_EXPERT, N_EXPERT_USED = 8, 2

SPECIALS = ["<unk>", "<s>", "</s>"]
PIECES = ["\N{LOWER ONE EIGHTH BLOCK}", *map(chr, range(33, 127))]
N_VOCAB = len(SPECIALS) + 256 + len(PIECES)

# The tokens that a model writes: a space and lower-case letters. Few candidates make near ties rare.
WRITTEN = [N_VOCAB - len(PIECES) + i for i, piece in enumerate(PIECES) if i == 0 or piece.islower()]

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@dataclass(frozen=True)
class TinyModel:
    """The shape of a tiny model, and how its architecture differs from llama.

    ffn : gated (up, gate, down), fused (gate inside up), plain (up, down) or moe.
    norm : rms or layer (with bias).
    qk_norm : None, head (one weight for all heads) or full (over all heads together).
    pre_norm : a norm before attention and one before the FFN; post_norm : one after each.
    n_rot : rotated dimensions of a head; all where None.
    windows, recurrent : the layers that have a sliding window, and those that are short convolutions instead of attention.
    seed : of the weights; equal seeds give equal files.
    metadata : further `{arch}.` keys.
    """

    arch: str
    n_layer: int = 2
    n_embd: int = 128
    n_head: int = 4
    n_head_kv: int = 2
    head_size: int = 32
    n_ff: int = 192
    ffn: str = "gated"
    norm: str = "rms"
    qk_norm: str | None = None
    qkv_bias: bool = False
    qkv_fused: bool = False
    linear_bias: bool = False
    pre_norm: bool = True
    post_norm: bool = False
    tied_output: bool = False
    embedding_gain: float = 1.0
    output_gain: float = 4.0
    n_rot: int | None = None
    windows: tuple[int, ...] = ()
    recurrent: tuple[int, ...] = ()
    seed: int = 0
    metadata: dict[str, float | list[int]] = field(default_factory=dict)

    @property
    def pool_layers(self) -> list[int]:
        """The layers whose cells are in the pool."""
        return [il for il in range(self.n_layer) if il not in self.windows + self.recurrent]

    @property
    def n_embd_q(self) -> int:
        return self.n_head * self.head_size

    @property
    def n_embd_kv(self) -> int:
        return self.n_head_kv * self.head_size


# Head sizes 32 and 64 alternate: llama.cpp rotates quantised cells when the head size is a multiple of 64.
TINY_MODELS = {
    "llama": TinyModel("llama", seed=87, n_layer=3, n_head=8),
    "qwen2": TinyModel("qwen2", seed=19, n_embd=256, head_size=64, qkv_bias=True),
    "qwen3": TinyModel("qwen3", seed=29, n_head_kv=1, head_size=64, qk_norm="head"),
    "qwen3moe": TinyModel("qwen3moe", seed=17, n_head_kv=4, qk_norm="head", ffn="moe", n_ff=64),
    "phi3": TinyModel("phi3", seed=22, n_embd=256, n_head=8, qkv_fused=True, ffn="fused"),
    "olmo2": TinyModel(
        "olmo2", seed=58, n_embd=256, head_size=64, n_head_kv=4, qk_norm="full", pre_norm=False, post_norm=True
    ),
    "granite": TinyModel(
        "granite",
        seed=75,
        n_head=8,
        n_head_kv=1,
        metadata={"logit_scale": 0.5, "residual_scale": 0.7, "embedding_scale": 1.5, "attention.scale": 0.25},
    ),
    "starcoder2": TinyModel(
        "starcoder2",
        seed=61,
        n_embd=256,
        head_size=64,
        n_head_kv=1,
        norm="layer",
        qkv_bias=True,
        linear_bias=True,
        ffn="plain",
    ),
    "stablelm": TinyModel("stablelm", seed=1, norm="layer", n_rot=16, metadata={"use_parallel_residual": False}),
    "gemma": TinyModel("gemma", seed=46, head_size=64, tied_output=True, embedding_gain=0.25),
    "glm4": TinyModel("glm4", seed=1, head_size=64, n_rot=32, ffn="fused", post_norm=True),
}

# Models with layers that have no cells in the pool.
MIXED_MODELS = {
    "gemma2": TinyModel(
        "gemma2",
        seed=1,
        n_layer=4,
        head_size=64,
        tied_output=True,
        embedding_gain=0.02,
        post_norm=True,
        windows=(0, 2),
        metadata={
            "attention.sliding_window": 24,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
    ),
    "lfm2": TinyModel(
        "lfm2", seed=1, n_layer=3, qk_norm="head", tied_output=True, recurrent=(0,), metadata={"shortconv.l_cache": 3}
    ),
}


def write_tiny_model(
    path: Path,
    model: TinyModel,
    vocabulary_seed: int | None = None,
    chat_template: str | None = CHAT_TEMPLATE,
    tensors: Iterable[tuple[str, np.ndarray]] | None = None,
) -> Path:
    """Write a tiny model with random weights.

    Parameters
    ----------
    path : the GGUF file to make.
    model : its shape and seed.
    vocabulary_seed : replaces the text of one piece by a number, for a model of the same shape with another vocabulary.
    chat_template : None for a model without one.
    tensors : names and float32 arrays to write in place of the random ones.
    """
    writer = gguf.GGUFWriter(path, model.arch)
    _add_hyperparameters(writer, model)
    add_vocabulary(writer, vocabulary_seed, chat_template)
    for name, array in tiny_tensors(model) if tensors is None else tensors:
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_hyperparameters(writer: gguf.GGUFWriter, model: TinyModel) -> None:
    writer.add_name("tiny model")  # llama.cpp knows some models by name
    writer.add_context_length(N_CTX_TRAIN)
    writer.add_block_count(model.n_layer)
    writer.add_embedding_length(model.n_embd)
    writer.add_feed_forward_length(model.n_ff)
    writer.add_head_count(model.n_head)
    n_head_kv = [0 if il in model.recurrent else model.n_head_kv for il in range(model.n_layer)]
    writer.add_head_count_kv(n_head_kv if model.recurrent else model.n_head_kv)
    writer.add_key_length(model.head_size)
    writer.add_value_length(model.head_size)
    writer.add_rope_dimension_count(model.n_rot or model.head_size)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(N_VOCAB)
    (writer.add_layer_norm_eps if model.norm == "layer" else writer.add_layer_norm_rms_eps)(1e-5)
    if model.ffn == "moe":
        writer.add_expert_count(N_EXPERT)
        writer.add_expert_used_count(N_EXPERT_USED)
        writer.add_expert_feed_forward_length(model.n_ff)
    for key, value in model.metadata.items():
        add = {
            bool: writer.add_bool,
            int: writer.add_uint32,
            float: writer.add_float32,
            list: writer.add_array,
        }[type(value)]
        add(f"{model.arch}.{key}", value)


def add_vocabulary(
    writer: gguf.GGUFWriter, vocabulary_seed: int | None = None, chat_template: str | None = CHAT_TEMPLATE
) -> None:
    """A sentencepiece vocabulary: three special tokens, every byte, and one piece per printable ASCII character."""
    kind = gguf.TokenType
    pieces = list(PIECES)
    if vocabulary_seed is not None:
        pieces[-1] = f"piece {vocabulary_seed}"
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(SPECIALS + [f"<0x{byte:02X}>" for byte in range(256)] + pieces)
    writer.add_token_scores([0.0] * (len(SPECIALS) + 256) + [-1.0 - i for i in range(len(pieces))])
    writer.add_token_types([kind.UNKNOWN] + [kind.CONTROL] * 2 + [kind.BYTE] * 256 + [kind.NORMAL] * len(pieces))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    if chat_template is not None:
        writer.add_chat_template(chat_template)


def tiny_tensors(model: TinyModel) -> Iterator[tuple[str, np.ndarray]]:
    """Names and float32 arrays ([n_out, n_in]) of all tensors of a tiny model."""

    def normal(name: str, *shape: int, std: float, mean: float = 0.0) -> tuple[str, np.ndarray]:
        rng = np.random.default_rng([model.seed, zlib.crc32(name.encode())])
        return name, (mean + std * rng.standard_normal(shape)).astype(np.float32)

    def linear(name: str, n_out: int, n_in: int, gain: float, bias: bool = False) -> Iterator[tuple[str, np.ndarray]]:
        yield normal(f"{name}.weight", n_out, n_in, std=gain / n_in**0.5)
        if bias:
            yield normal(f"{name}.bias", n_out, std=0.1)

    def norm(name: str, n: int, gain: float = 1.0) -> Iterator[tuple[str, np.ndarray]]:
        yield normal(f"{name}.weight", n, std=0.1 * gain, mean=gain)
        if model.norm == "layer":
            yield normal(f"{name}.bias", n, std=0.1)

    written = np.full((N_VOCAB, 1), 0.2, np.float32)
    written[WRITTEN] = 1
    name, embedding = normal("token_embd.weight", N_VOCAB, model.n_embd, std=model.embedding_gain)
    yield name, embedding * written if model.tied_output else embedding
    for il in range(model.n_layer):
        yield from _layer_tensors(model, il, linear, norm)
    for name, array in norm(
        "token_embd_norm" if model.arch == "lfm2" else "output_norm",
        model.n_embd,
        model.output_gain if model.tied_output else 1.0,
    ):
        # a tied output favours the token just read; signs that differ hide it
        yield name, array * np.resize([1, -1], model.n_embd).astype(np.float32) if model.tied_output else array
    if not model.tied_output:
        name, output = next(linear("output", N_VOCAB, model.n_embd, model.output_gain))
        yield name, output * written


def _layer_tensors(model: TinyModel, il: int, linear, norm) -> Iterator[tuple[str, np.ndarray]]:
    """Tensors of one layer. Queries and keys are large enough (std 1.6) that a few cells get most of the attention."""
    blk = f"blk.{il}"
    n_embd, n_ff = model.n_embd, model.n_ff
    if model.pre_norm:
        yield from norm(f"{blk}.attn_norm", n_embd)
        yield from norm(f"{blk}.ffn_norm", n_embd)
    if model.post_norm:
        # olmo2 and glm4 name the norm after attention alike, the one after the FFN too
        yield from norm(f"{blk}.post_attention_norm", n_embd)
        yield from norm(f"{blk}.post_ffw_norm", n_embd)

    if il in model.recurrent:
        yield from linear(f"{blk}.shortconv.conv", n_embd, model.metadata["shortconv.l_cache"], 1.0)
        yield from linear(f"{blk}.shortconv.in_proj", 3 * n_embd, n_embd, 1.0)
        yield from linear(f"{blk}.shortconv.out_proj", n_embd, n_embd, 1.0)
    else:
        yield from _attention_tensors(model, blk, linear, norm)

    if model.ffn == "moe":
        yield from linear(f"{blk}.ffn_gate_inp", N_EXPERT, n_embd, 4.0)
        yield from _experts(model, blk, linear)
    else:
        if model.ffn == "gated":
            yield from linear(f"{blk}.ffn_gate", n_ff, n_embd, 1.0)
        yield from linear(f"{blk}.ffn_up", 2 * n_ff if model.ffn == "fused" else n_ff, n_embd, 1.0, model.linear_bias)
        yield from linear(f"{blk}.ffn_down", n_embd, n_ff, 1.0, model.linear_bias)


def _attention_tensors(model: TinyModel, blk: str, linear, norm) -> Iterator[tuple[str, np.ndarray]]:
    n_embd, n_q, n_kv = model.n_embd, model.n_embd_q, model.n_embd_kv
    if model.qkv_fused:
        yield from linear(f"{blk}.attn_qkv", n_q + 2 * n_kv, n_embd, 1.1, model.qkv_bias)
    else:
        yield from linear(f"{blk}.attn_q", n_q, n_embd, 1.1, model.qkv_bias)
        yield from linear(f"{blk}.attn_k", n_kv, n_embd, 1.1, model.qkv_bias)
        yield from linear(f"{blk}.attn_v", n_kv, n_embd, 1.0, model.qkv_bias)
    if model.qk_norm:
        yield from norm(f"{blk}.attn_q_norm", n_q if model.qk_norm == "full" else model.head_size, 1.1)
        yield from norm(f"{blk}.attn_k_norm", n_kv if model.qk_norm == "full" else model.head_size, 1.1)
    yield from linear(f"{blk}.attn_output", n_embd, n_q, 2.5, model.linear_bias)


def _experts(model: TinyModel, blk: str, linear) -> Iterator[tuple[str, np.ndarray]]:
    for part, n_out, n_in in (
        ("gate", model.n_ff, model.n_embd),
        ("up", model.n_ff, model.n_embd),
        ("down", model.n_embd, model.n_ff),
    ):
        ((name, array),) = linear(f"{blk}.ffn_{part}_exps", N_EXPERT * n_out, n_in, 1.0)
        yield name, array.reshape(N_EXPERT, n_out, n_in)
