"""The project's cache directory, as the native build names it."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """The folder that `RETAIN_CACHE_DIR` names, or retain-local's own in the user's cache."""
    if chosen := os.environ.get("RETAIN_CACHE_DIR"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "retain-local"
