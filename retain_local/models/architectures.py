"""Which architectures the cache serves, and why it does not serve the others; `docs/architectures.md` lists them all.

The native library decides by the loaded model, in the same way.
"""

from __future__ import annotations

_REFUSED = {
    "is recurrent: it has a state of fixed size, and no KV cache to keep in a budget": {
        "arwkv7", "mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7",
    },
    "is an encoder, embedding or diffusion model: it does not generate token by token from a KV cache": {
        "bert", "dream", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llada", "llada-moe",
        "llama-embed", "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe", "rnd1", "t5encoder",
        "wavtokenizer-dec",
    },
    "is an encoder-decoder model: its decoder attends to what the encoder wrote, which has no cells": {"t5"},
    "drafts for another model, of whose context it reads": {"dflash", "eagle3", "gemma4-assistant"},
    "chooses the cells of its sparse attention by an index of its own, which would have to be evicted with them": {
        "deepseek32", "deepseek4", "dots3note", "glm-dsa", "glm5-next", "hy_v4", "minimax-m3", "qwen4exp",
    },
    "uses multi-head latent attention (MLA): one latent vector for all heads, which needs an attention op of its own": {
        "bailingmoe3", "kimi-k3", "kimi-linear",
    },
    "chooses the adapter of each token by the keys of a router layer: without some of them others would be chosen": {
        "graniteswitch",
    },
}  # fmt: skip

IS_ENCODER = next(reason for reason, names in _REFUSED.items() if "bert" in names)
IS_LATENT = next(reason for reason, names in _REFUSED.items() if "kimi-k3" in names)

_HYBRID = {
    "falcon-h1", "granitehybrid", "jamba", "lfm2", "lfm2moe", "minimax-01", "nemotron_h", "nemotron_h_moe", "plamo2",
    "qwen35", "qwen35moe", "qwen3next",
}  # fmt: skip
# some layers have sliding windows, in files that name a window or in all
_SLIDING = {
    "afmoe", "cohere2", "cohere2moe", "exaone-moe", "exaone4", "gemma2", "gemma3", "gemma3n", "gemma4", "gpt-oss",
    "granite_swa", "laguna", "llama4", "maple", "mellum", "mimo2", "muse-glimmer", "olmo2", "plamo3", "smallthinker",
    "spark2_5", "step35",
}  # fmt: skip


def refusal(arch: str) -> str:
    """Why the cache serves no model of this architecture; "" when it does, or may."""
    return next((reason for reason, names in _REFUSED.items() if arch in names), "")


def is_mixed(arch: str) -> bool:
    """Whether models of this architecture may have layers whose cells are not in the pool."""
    return arch in _HYBRID or arch in _SLIDING
