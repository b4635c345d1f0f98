"""Real files that some tests use, where somebody has them: small models, chat templates."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA_VARIABLE = "RETAIN_DATA_DIR"


def require_data(name: str) -> Path:
    """A file or folder under the folder that `RETAIN_DATA_DIR` names; skips the test without it."""
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        pytest.skip(f"set {DATA_VARIABLE} to a folder with {name}")
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"{DATA_VARIABLE} is set, but {path} is missing")
    return path
