"""What a model's file says, with what the caller says instead, and what llama.cpp could not survive."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..bindings import llama_cpp
from ..errors import RetainError, UsageError
from ..models.model_file import ModelFile
from .table import whole_number

logger = logging.getLogger("retain_local")


def uses_gpu(n_gpu_layers: int) -> bool:
    """Whether any layers go to a GPU, of so many that are to."""
    return n_gpu_layers != 0 and llama_cpp.llama_supports_gpu_offload()


def check_vectors(file: ModelFile, n_gpu_layers: int) -> None:
    """llama.cpp ends the process when its CPU code meets a norm or a bias in half precision."""
    if file.half_vector and not uses_gpu(n_gpu_layers):
        raise RetainError(
            f"{file.path}: '{file.half_vector}' is in half precision, which only GPUs compute with; convert the model anew"
        )


def warn_of_context(file: ModelFile, n_ctx: int) -> None:
    """Say that a context of so many tokens is longer than the one of the training, where it is."""
    if 0 < file.n_ctx_train < n_ctx:
        logger.warning(
            "the context of %d tokens is longer than the %d the model was trained for; expect worse text beyond",
            n_ctx,
            file.n_ctx_train,
        )


def described(model: ModelFile, overrides: Mapping[str, Any] | None) -> ModelFile:
    """What a file says about its model, with what the caller says instead.

    Raises
    ------
    UsageError : the overrides are none.
    RetainError : nobody says how long the context of the training was.
    """
    if not isinstance(overrides, Mapping | None):
        raise UsageError(f"kv_overrides is a dictionary from keys to values, not {type(overrides).__name__}")
    key = f"{model.architecture}.context_length"
    said = (overrides or {}).get(key)
    if isinstance(said, int) and not isinstance(said, bool):
        model = replace(model, n_ctx_train=whole_number(key, said, 1, 2**31 - 1))
    if not model.n_ctx_train:
        raise RetainError(
            f"{model.path}: the file does not say how many tokens of context its model was trained for ({key}), and"
            f" llama.cpp does not load it; convert it again, or in Python give kv_overrides={{{key!r}: N}}"
        )
    return model
