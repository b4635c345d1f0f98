"""Where this program keeps its own files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .errors import RetainError
from .files import private_folder

ASSETS = Path(__file__).parent / "assets"
BUNDLED_MODEL = ASSETS / "bundled.gguf"


def data_dir() -> Path:
    """The folder for this user's data, made if need be: the platform's own place, or under `XDG_DATA_HOME`.

    Raises
    ------
    RetainError : there is no home folder, or the folder cannot be made, or others may write to it.
    """
    return private_folder(_data_home() / "retain-local")


def settings_file(name: str) -> Path | None:
    """Where a file of this user's settings would be: the platform's own place, or under `XDG_CONFIG_HOME`.

    None where there is no home folder.
    """
    named = os.environ.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(named):
        return Path(named) / "retain-local" / name
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", home / "AppData" / "Roaming")) / "retain-local" / name
    return home / ("Library/Application Support" if sys.platform == "darwin" else ".config") / "retain-local" / name


def _data_home() -> Path:
    named = os.environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(named):  # a relative one is to be ignored, as the standard says
        return Path(named)
    try:
        home = Path.home()
    except RuntimeError:
        raise RetainError(
            "there is no home folder; name one with HOME, or a folder for data with XDG_DATA_HOME"
        ) from None
    if not home.is_absolute():
        raise RetainError(f"the home folder {str(home)!r} is no absolute path; set HOME to one, or XDG_DATA_HOME")
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    return home / ("Library/Application Support" if sys.platform == "darwin" else ".local/share")
