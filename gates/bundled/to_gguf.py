"""Write the bundled model and its gates as GGUF files."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from torch import Tensor

from .. import sidecar
from ..fingerprint import base_fingerprint
from ..model import GateSet, LayerGate, Linear
from . import tasks
from .net import Gates, Qwen3
from .tokenizer import END_OF_TEXT, SPECIALS, TURN_END, Tokenizer

NAME = "retain-local bundled recall model"
SOURCE = "trained from scratch by retain_local.gates.bundled"

BLOCK_TENSORS = {
    "attn_norm": "attn_norm", "attn_q": "attn.q", "attn_k": "attn.k", "attn_v": "attn.v", "attn_output": "attn.out",
    "attn_q_norm": "attn.q_norm", "attn_k_norm": "attn.k_norm", "ffn_norm": "ffn_norm", "ffn_gate": "gate",
    "ffn_up": "up", "ffn_down": "down",
}  # fmt: skip


def write_model(path: Path, model: Qwen3, tokenizer: Tokenizer, trained_context: int) -> None:
    """Write the base model: matrices in f16, norms in f32."""
    config = model.config
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_type("model")
    writer.add_name(NAME)
    writer.add_description("Answers questions about facts hidden in a text. A toy for demonstrations.")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(config.n_layer)
    writer.add_context_length(trained_context)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_ff)
    writer.add_head_count(config.n_head)
    writer.add_head_count_kv(config.n_head_kv)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    _add_tokenizer(writer, tokenizer)
    _add_tensor(writer, "token_embd.weight", model.embed.weight)
    _add_tensor(writer, "output_norm.weight", model.norm.weight)
    for layer, block in enumerate(model.blocks):
        for name, module in BLOCK_TENSORS.items():
            _add_tensor(writer, f"blk.{layer}.{name}.weight", block.get_submodule(module).weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tensor(writer: gguf.GGUFWriter, name: str, tensor: Tensor) -> None:
    writer.add_tensor(name, tensor.detach().numpy().astype(np.float16 if tensor.dim() == 2 else np.float32))


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in SPECIALS else normal for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.token_to_id(END_OF_TEXT))
    writer.add_pad_token_id(tokenizer.token_to_id(END_OF_TEXT))
    writer.add_eos_token_id(tokenizer.token_to_id(TURN_END))
    writer.add_add_bos_token(False)
    writer.add_chat_template(tasks.CHAT_TEMPLATE)


def write_gates(path: Path, gates: Gates, model_path: Path, trained_budget: int, trained_context: int) -> None:
    """Write the gate sidecar of the model at ``model_path``."""
    gate_set = GateSet(
        tuple(LayerGate(_linear(inner), _linear(middle)) for inner, middle in zip(gates.inner, gates.middle)),
        _linear(gates.score),
    )
    info = sidecar.GateInfo(
        architecture="qwen3",
        name=f"{NAME}: gates",
        trained_budget=trained_budget,
        trained_context_length=trained_context,
        base_name=NAME,
        base_fingerprint=base_fingerprint(model_path),
        source=SOURCE,
    )
    sidecar.write_sidecar(path, gate_set, info)


def _linear(module) -> Linear:
    return Linear(module.weight.detach().numpy(), module.bias.detach().numpy())
