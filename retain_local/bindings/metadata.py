"""The metadata of a model as text, whatever bytes are in it: the bindings read none where one text is not UTF-8."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from . import llama_cpp


def model_metadata(model: Any) -> dict[str, str]:
    """Every key and value that is no array; what is not UTF-8 becomes a replacement character.

    Parameters
    ----------
    model : the bindings' `LlamaModel`.
    """
    indices = range(llama_cpp.llama_model_meta_count(model.model))
    return {
        _text(llama_cpp.llama_model_meta_key_by_index, model.model, i): _text(
            llama_cpp.llama_model_meta_val_str_by_index, model.model, i
        )
        for i in indices
    }


def _text(read: Callable[..., int], model: Any, i: int) -> str:
    size = 1024
    while True:
        buffer = ctypes.create_string_buffer(size)
        n = read(model, i, buffer, size)
        if n < size:
            return buffer.value.decode("utf-8", errors="replace")
        size = n + 1
