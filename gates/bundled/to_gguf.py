"""Write the bundled model as a GGUF file: a qwen3 with a tokenizer of its own."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from torch import Tensor
from transformers import Qwen3ForCausalLM

from .base_model import ROPE_BASE
from .tokenizer import CHAT_TEMPLATE, END_OF_TEXT, SPECIALS, TURN_END, Tokenizer

NAME = "retain-local bundled recall model"


def write_model(path: Path, model: Qwen3ForCausalLM, tokenizer: Tokenizer) -> None:
    """Write the base model: matrices in f16, norms in f32. The output matrix is the embedding and is not stored twice."""
    config = model.config
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_type("model")
    writer.add_name(NAME)
    writer.add_description("Answers questions about facts hidden in a conversation. A toy for demonstrations.")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    _add_tokenizer(writer, tokenizer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":
            mapped = names.get_name(name, try_suffixes=(".weight",))
            assert mapped is not None, f"{name} has no name in GGUF"
            writer.add_tensor(mapped, _as_stored(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _as_stored(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().numpy().astype(np.float16 if tensor.dim() == 2 else np.float32)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in SPECIALS else normal for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokens.index(END_OF_TEXT))
    writer.add_pad_token_id(tokens.index(END_OF_TEXT))
    writer.add_eos_token_id(tokens.index(TURN_END))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
