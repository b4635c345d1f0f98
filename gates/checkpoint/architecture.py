"""What GGUF calls the architectures of transformers' language models."""

from __future__ import annotations

import re

# by `model_type`, without underscores; the vision-language models are their language models
_ARCHITECTURES = {
    "apertus": "apertus",
    "arcee": "arcee",
    "cohere": "command-r",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "glm4": "glm4",
    "gpt2": "gpt2",
    "granite": "granite",
    "gptoss": "gpt-oss",
    "granitemoe": "granitemoe",
    "internlm2": "internlm2",
    "lfm2": "lfm2",
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "nemotron": "nemotron",
    "olmo": "olmo",
    "olmo2": "olmo2",
    "olmoe": "olmoe",
    "phi": "phi2",
    "phi3": "phi3",
    "phimoe": "phimoe",
    "qwen2": "qwen2",
    "qwen25vl": "qwen2vl",
    "qwen2moe": "qwen2moe",
    "qwen2vl": "qwen2vl",
    "qwen3": "qwen3",
    "qwen35": "qwen35",
    "qwen35moe": "qwen35moe",
    "qwen3next": "qwen3next",
    "qwen3moe": "qwen3moe",
    "qwen3vl": "qwen3vl",
    "qwen3vlmoe": "qwen3vlmoe",
    "seedoss": "seed_oss",
    "smollm3": "smollm3",
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
}

# what the names of classes, and of the language models inside others, have around the name of the model
_AROUND = re.compile("^trimkv|for(causallm|conditionalgeneration)$|text(model)?$")


def gguf_architecture(model_type: str) -> str | None:
    """The GGUF architecture of a `model_type` ("qwen3", "qwen2_5_vl_text") or of a class ("Phi3ForCausalLM").

    None for a model that is not in our table.
    """
    name = re.sub("[^a-z0-9]", "", model_type.lower())
    return _ARCHITECTURES.get(_AROUND.sub("", name))
