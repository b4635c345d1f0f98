"""The base model's shape, and how it starts out."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

N_LAYER, N_EMBD, N_HEAD, N_HEAD_KV, HEAD_DIM, N_FF = 4, 192, 6, 2, 32, 512
ROPE_BASE = 10000.0

# the start of the previous-token head, see `start_previous_token_head`
EMBEDDING_STD, SHARED_COMPONENT, N_SHARP_FREQUENCIES, FIRST_LAYER_GAIN = 0.022, 0.5, 4, 1.5
# the same of the induction head, see `start_induction_head`
PREVIOUS_TOKEN_GAIN, SECOND_LAYER_GAIN = 0.1, 2.0


def base_config(n_vocab: int, context: int) -> Qwen3Config:
    """A qwen3 of about two million parameters; embedding and output matrix are one."""
    return Qwen3Config(
        vocab_size=n_vocab,
        hidden_size=N_EMBD,
        num_hidden_layers=N_LAYER,
        num_attention_heads=N_HEAD,
        num_key_value_heads=N_HEAD_KV,
        head_dim=HEAD_DIM,
        intermediate_size=N_FF,
        max_position_embeddings=context,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE},
        tie_word_embeddings=True,
    )


def new_model(config: Qwen3Config) -> Qwen3ForCausalLM:
    """A model with its weights as training starts, from torch's present random state."""
    model = Qwen3ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            # nothing is written into the residual stream at first: noise there would drown the embeddings
            writes = name.endswith(("o_proj.weight", "down_proj.weight"))
            torch.nn.init.normal_(parameter, std=0.0 if writes else parameter.shape[1] ** -0.5)
    start_previous_token_head(model)
    start_induction_head(model)
    return model


@torch.no_grad()
def start_previous_token_head(model: Qwen3ForCausalLM) -> None:
    """Let the first KV head of the first layer look at the token before.

    Induction is made of such a head and one that builds on it. Left to chance, neither gives the other anything to
    learn from for millions of tokens. All embeddings share a component; the head maps it to a fixed query, and to the
    key that is this query rotated by one position, on the frequencies that tell neighbours apart.
    """
    embedding, attention = model.model.embed_tokens.weight, model.model.layers[0].self_attn
    torch.nn.init.normal_(embedding, std=EMBEDDING_STD)
    embedding[:, 0] = SHARED_COMPONENT
    query = torch.zeros(HEAD_DIM)
    query[:N_SHARP_FREQUENCIES] = SHARED_COMPONENT
    group = N_HEAD // N_HEAD_KV
    attention.q_proj.weight[: group * HEAD_DIM, 0] = query.repeat(group)
    attention.k_proj.weight[:HEAD_DIM, 0] = _rotate_once(query)
    attention.q_norm.weight.fill_(FIRST_LAYER_GAIN)
    attention.k_norm.weight.fill_(FIRST_LAYER_GAIN)


@torch.no_grad()
def start_induction_head(model: Qwen3ForCausalLM) -> None:
    """Let the first KV head of the second layer look behind earlier occurrences of the token it is at.

    What the previous-token head finds is projected to a few numbers and written to directions of its own; there the
    second layer reads its keys, and its queries from the same projection of the present token. Only the frequencies
    that turn slowly take part, so that the match holds over a distance.
    """
    first, second = (layer.self_attn for layer in model.model.layers[:2])
    read = torch.zeros(HEAD_DIM, N_EMBD)
    read[:, 1:] = torch.nn.init.orthogonal_(torch.empty(HEAD_DIM, N_EMBD - 1))  # the shared component tells nothing
    write = torch.zeros(HEAD_DIM, N_EMBD)
    write[:, 1:] = torch.nn.init.orthogonal_(torch.empty(HEAD_DIM, N_EMBD - 1))
    slow = torch.arange(HEAD_DIM) % (HEAD_DIM // 2) >= HEAD_DIM // 4
    first.v_proj.weight[:HEAD_DIM] = read
    first.o_proj.weight[:, :HEAD_DIM] = PREVIOUS_TOKEN_GAIN * write.T
    second.k_proj.weight[:HEAD_DIM] = write * slow[:, None]
    second.q_proj.weight[:HEAD_DIM] = read * slow[:, None]
    second.q_norm.weight.fill_(SECOND_LAYER_GAIN)
    second.k_norm.weight.fill_(SECOND_LAYER_GAIN)


def _rotate_once(x: Tensor) -> Tensor:
    """Rotate a head's vector [HEAD_DIM] by one position, halves against each other (the "neox" order)."""
    angle = (ROPE_BASE ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)).repeat(2)
    first, second = x.chunk(2)
    return x * angle.cos() + torch.cat((-second, first)) * angle.sin()
