"""Where the native libraries are: the patched ones of the package, and the stock ones of the same release."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from retain_local.bindings import library

STOCK_VARIABLE = "RETAIN_STOCK_LIB_DIR"
PATCHED = library.directory().absolute()


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
