"""Where this program keeps its own files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
BUNDLED_MODEL = ASSETS / "bundled.gguf"


def data_dir() -> Path:
    """The folder for this user's data, made if need be: the platform's own place, or under `XDG_DATA_HOME`."""
    if os.environ.get("XDG_DATA_HOME"):
        base = Path(os.environ["XDG_DATA_HOME"])
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path.home() / ".local" / "share"
    folder = base / "retain-local"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
