"""libmtmd, llama.cpp's library for pictures, through the bindings' own module."""

from __future__ import annotations

import functools
from typing import Any

from ..errors import RetainError
from . import library, log


@functools.cache
def load() -> Any:
    """The bindings' module `mtmd_cpp`, with its log where llama.cpp's goes.

    Raises
    ------
    RetainError : the library is missing or cannot be loaded.
    """
    library.load()
    try:
        from llama_cpp import mtmd_cpp
    except (OSError, RuntimeError, AttributeError) as error:
        raise RetainError(f"the library for pictures cannot be loaded: {error}; {library.remedy()}") from None
    log.install_for_pictures(mtmd_cpp.mtmd_helper_log_set)
    return mtmd_cpp
