"""Loading the base model and its tokenizer, and choosing where they run."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ...errors import RetainError, UsageError
from ..checkpoint.trimkv import ACTIVATIONS
from .base import BaseModel
from .gguf_base import check_logits, is_gguf, load_gguf
from .gguf_tokenizer import GgufTokenizer
from .options import TrainOptions
from .rows import Tokenizer


def load_base(source: str, options: TrainOptions) -> tuple[BaseModel, Tokenizer]:
    """A base model, frozen, with its tokenizer.

    Parameters
    ----------
    source : a folder in the layout of transformers, a repository on the Hugging Face Hub, or a GGUF file.

    Raises
    ------
    RetainError : there is no such model, it is not a causal language model that transformers knows, or its attention
        cannot fade.
    """
    device = choose_device(options.device)
    dtype = _dtype(options.dtype, device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # of the gates, whose weights are float32: TF32
    if is_gguf(source):
        path = Path(source)
        tokenizer: Tokenizer = GgufTokenizer(path)
        base = BaseModel(load_gguf(path, dtype).to(device))
        check_logits(base, path)
        return base, tokenizer
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype).to(device)
    except Exception as error:  # whatever a model's files, the connection or a GPU's memory can do
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RetainError(f"{source}: no base model could be loaded: {reason}") from None
    if not tokenizer.is_fast:
        raise RetainError(f"{source}: its tokenizer has no tokenizer.json, which is needed to find replies in a text")
    return BaseModel(model), tokenizer


def gate_activation(base: BaseModel) -> str:
    """The activation of the gates: the model's own.

    Raises
    ------
    RetainError : the model has one that gates cannot have.
    """
    name = getattr(base.config, "hidden_act", None) or getattr(base.config, "hidden_activation", None)
    if name not in ACTIVATIONS:
        raise RetainError(
            f"the base model's activation {name!r} is not one that gates can have: {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


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
