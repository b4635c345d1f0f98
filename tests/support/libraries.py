"""Where the native libraries are, for tests that skip without them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from retain_local.bindings import library
from retain_local.errors import RetainError

STOCK_VARIABLE = "RETAIN_STOCK_LIB_DIR"


def require_patched() -> Path:
    """Load the patched libraries and return their folder; called at the top of a module, skips it without them."""
    try:
        library.load()
    except RetainError as error:
        pytest.skip(f"the patched libraries are not there: {error}", allow_module_level=True)
    return library.directory().absolute()


def require_stock() -> Path:
    """Folder of the stock libraries of the same release; called at the top of a module, skips it without them."""
    folder = os.environ.get(STOCK_VARIABLE)
    if not folder:
        pytest.skip(
            f"set {STOCK_VARIABLE} to a folder with stock libraries of the same release", allow_module_level=True
        )
    path = Path(folder) / library.file_name("llama")
    if not path.exists():
        pytest.skip(f"{STOCK_VARIABLE} is set, but {path} is missing", allow_module_level=True)
    return Path(folder).absolute()
