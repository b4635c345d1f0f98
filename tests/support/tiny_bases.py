"""Tiny Hugging Face models with random weights, and a tokenizer for them."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GptOssConfig,
    GraniteConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from support.tiny_models import N_VOCAB

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
_SIZES = {
    "vocab_size": N_VOCAB, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "max_position_embeddings": 256, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

# families that share nothing but transformers' table of attention functions
FAMILIES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**_SIZES),
    "mistral": MistralConfig(**_SIZES, sliding_window=None),
    "qwen2": Qwen2Config(**_SIZES),
    "qwen3": Qwen3Config(**_SIZES, head_dim=32),
    "phi3": Phi3Config(**_SIZES),
    "granite": GraniteConfig(**_SIZES, attention_multiplier=0.3, logits_scaling=4.0, residual_multiplier=0.5),
}
_WINDOW = 7
# families in which only some layers have full attention, and the layers that have it
PARTLY_FULL: dict[str, tuple[PreTrainedConfig, tuple[int, ...]]] = {
    "gemma2": (Gemma2Config(**_SIZES, head_dim=16, attn_logit_softcapping=20.0, sliding_window=_WINDOW), (1,)),
    "gemma3": (
        Gemma3TextConfig(
            **_SIZES, head_dim=16, sliding_window=_WINDOW,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        (1,),
    ),
    "gpt-oss": (
        GptOssConfig(
            **_SIZES, head_dim=16, sliding_window=_WINDOW, num_local_experts=4, num_experts_per_tok=2,
            layer_types=["sliding_attention", "full_attention", "full_attention"],
        ),
        (1, 2),
    ),
    "qwen3-next": (
        Qwen3NextConfig(
            **_SIZES, head_dim=16, layer_types=["linear_attention", "linear_attention", "full_attention"],
            linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=16, linear_value_head_dim=16,
            num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, shared_expert_intermediate_size=32,
        ),
        (2,),
    ),
    "lfm2": (
        Lfm2Config(**_SIZES, layer_types=["conv", "full_attention", "conv"], block_auto_adjust_ff_dim=False), (1,),
    ),
}  # fmt: skip
REFUSED: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(vocab_size=N_VOCAB, n_embd=64, n_layer=2, n_head=4),
    "mistral": MistralConfig(**_SIZES, sliding_window=_WINDOW),
}


def tiny_base(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A model with weights large enough that attention decides what it says, in float32."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(deepcopy(config)).to(torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=1.0 if "embed" in name else 1.5 * parameter.shape[1] ** -0.5)
    return model.eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each of a few characters; no text is longer in tokens than in characters."""
    characters = [chr(code) for code in range(32, 127)]
    vocabulary = {token: number for number, token in enumerate(["<unk>", "<s>", "</s>", "\n", *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", chat_template=CHAT_TEMPLATE
    )


def save_base(folder: Path, model: PreTrainedModel) -> Path:
    """The model and the tokenizer as `from_pretrained` loads them."""
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
