"""The native libraries and what is spoken with them: finding and loading them, `retain.h` in ctypes, llama.cpp's log."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    # Loaded on first use: help, doctor and file tools must work where the libraries do not.
    if name != "llama_cpp":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .library import load

    load()
    import llama_cpp

    return llama_cpp
