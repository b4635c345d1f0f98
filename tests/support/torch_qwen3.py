"""transformers' Qwen3 with the weights of a tiny model, attending to a given set of cells."""

from __future__ import annotations

import numpy as np
import torch
from transformers import AttentionInterface, Qwen3Config, Qwen3ForCausalLM

from support.tiny_models import N_CTX_TRAIN, N_VOCAB, TinyModel, tiny_tensors

ATTENTION = "retained_cells"

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def _attend(module, query, key, value, attention_mask, scaling, **_):
    """Softmax attention of query [1, n_head, T, d] over the keys that `module.visible` [H_kv, T, T] allows."""
    n_group = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(n_group, dim=1) for x in (key, value))
    visible = module.visible.repeat_interleave(n_group, dim=0)
    logits = (query @ key.transpose(2, 3) * scaling).masked_fill(~visible, -torch.inf)
    return (logits.softmax(dim=-1) @ value).transpose(1, 2), None


AttentionInterface.register(ATTENTION, _attend)


def load_qwen3(model: TinyModel) -> Qwen3ForCausalLM:
    """The PyTorch twin of a tiny model of architecture qwen3, in float32."""
    config = Qwen3Config(
        vocab_size=N_VOCAB,
        hidden_size=model.n_embd,
        num_hidden_layers=model.n_layer,
        num_attention_heads=model.n_head,
        num_key_value_heads=model.n_head_kv,
        head_dim=model.head_size,
        intermediate_size=model.n_ff,
        max_position_embeddings=N_CTX_TRAIN,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=False,
        attn_implementation=ATTENTION,
    )
    twin = Qwen3ForCausalLM(config).to(torch.float32).eval()
    twin.load_state_dict({_torch_name(name): torch.tensor(array) for name, array in tiny_tensors(model)}, strict=True)
    return twin


def _torch_name(name: str) -> str:
    base, _, kind = name.rpartition(".")
    if base in _NAMES:
        return f"{_NAMES[base]}.{kind}"
    _, il, part = base.split(".")
    return f"model.layers.{il}.{_LAYER_NAMES[part]}.{kind}"


@torch.no_grad()
def forward(twin: Qwen3ForCausalLM, tokens: list[int], visible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and gate inputs of all tokens.

    Parameters
    ----------
    visible : [L, H_kv, T, T] bool, whether the query at position t sees the cell of (layer, KV head, position p).

    Returns
    -------
    logits [T, n_vocab] and hidden [L, T, n_embd], the outputs of the attention input norms.
    """
    hidden: list[torch.Tensor] = []
    hooks = []
    for layer, seen in zip(twin.model.layers, visible):
        layer.self_attn.visible = torch.tensor(seen)
        hooks.append(layer.input_layernorm.register_forward_hook(lambda _, __, out: hidden.append(out[0])))
    logits = twin(torch.tensor([tokens]), use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    return logits.numpy(), torch.stack(hidden).numpy()
