"""Run GGUF models with a KV cache of fixed size.

`Llama` is `llama_cpp.Llama` with a budget: every token that enters the cache gets a learned retention score in every
layer and KV head, and the cells with the lowest scores go when the cache is over its budget.

    from retain_local import Llama

    llm = Llama("model.gguf", budget=2048)
    llm.create_chat_completion([{"role": "user", "content": "Hello"}])
    llm.retention.stats()
"""

from typing import TYPE_CHECKING, Any

from .bindings import library
from .errors import RetainError, UsageError

if TYPE_CHECKING:
    from .llama import Llama
    from .retention.retention import Retention
    from .retention.stats import RetentionStats

__all__ = ["Llama", "RetainError", "Retention", "RetentionStats", "UsageError"]

library.offer()

_HOMES = {"Llama": "llama", "Retention": "retention.retention", "RetentionStats": "retention.stats"}


def __getattr__(name: str) -> Any:
    # These load the native libraries; help, doctor and file tools must work where the libraries do not.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
