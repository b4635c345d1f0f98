"""Loading the base model and its tokenizer, and choosing where they run."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from ...errors import RetainError, UsageError
from .base import BaseModel
from .options import TrainOptions

# activations of transformers by what gates call them; the gates' own follows the model's
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "relu": "relu", "gelu_pytorch_tanh": "gelu", "gelu_new": "gelu"}


def load_base(source: str, options: TrainOptions) -> tuple[BaseModel, PreTrainedTokenizerBase]:
    """A base model, frozen, with its tokenizer.

    Parameters
    ----------
    source : a folder in the layout of transformers, or a repository on the Hugging Face Hub.

    Raises
    ------
    RetainError : there is no such model, it is not a causal language model that transformers knows, or its attention
        cannot fade.
    """
    device = choose_device(options.device)
    dtype = _dtype(options.dtype, device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RetainError(f"{source}: no base model could be loaded: {reason}") from None
    if not tokenizer.is_fast:
        raise RetainError(f"{source}: its tokenizer has no tokenizer.json, which is needed to find replies in a text")
    base = BaseModel(model.to(device))
    if device.type == "cuda":
        base.use_gradient_checkpointing()
    return base, tokenizer


def gate_activation(base: BaseModel) -> str:
    """The activation of the gates: the model's own.

    Raises
    ------
    RetainError : the model has one that gates cannot have.
    """
    name = getattr(base.config, "hidden_act", None) or getattr(base.config, "hidden_activation", None)
    if name not in _ACTIVATIONS:
        raise RetainError(
            f"the base model's activation {name!r} is not one that gates can have: {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def choose_device(name: str) -> torch.device:
    """The device that an option names; UsageError when it is not there."""
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise UsageError("device cuda is not there: PyTorch finds no GPU")
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        name = "bf16" if device.type == "cuda" else "f32"
    return torch.bfloat16 if name == "bf16" else torch.float32
