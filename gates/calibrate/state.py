"""A calibration that was stopped: the sums so far, in a file beside the sidecar to be made."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import RetainError
from ...files import replaced
from .fit import Fit

SUFFIX = ".calibration"


def state_path(out: Path) -> Path:
    """Where the state of a calibration of these gates is kept."""
    return out.with_name(out.name + SUFFIX)


def save_state(path: Path, key: str, n_done: int, fit: Fit) -> None:
    """Write the sums, whole or not at all.

    Parameters
    ----------
    key : what they belong to: the model, the texts and the settings.
    n_done : documents in the sums.

    Raises
    ------
    RetainError : the file cannot be written.
    """
    with replaced(path) as file:
        arrays: dict[str, Any] = {"key": np.array(key), "n_done": np.array(n_done), **fit.arrays()}
        np.savez(file, **arrays)


def load_state(path: Path, key: str, fit: Fit) -> int:
    """Take the sums of an earlier run into a fit; returns how many documents are in them, 0 where there is none.

    What was left by another model, other texts or settings is not used, and neither is a damaged file.
    """
    try:
        with np.load(path) as found:
            if str(found["key"]) != key:
                return 0
            n_done = int(found["n_done"])
            fit.take({name: found[name] for name in found.files})  # last: what follows adds to the sums
            return n_done
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return 0


def remove_state(path: Path) -> None:
    """Remove the state of a calibration that is done."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise RetainError(f"{path} cannot be removed: {error.strerror or error}") from None
