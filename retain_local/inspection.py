"""`retain-local gates inspect`."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from .gates import describe_sidecar, sidecar_table


def show_sidecar(path: Path, as_json: bool) -> None:
    """Print what a sidecar holds, as a table or as one JSON object.

    Raises
    ------
    RetainError : the file is not a sidecar, or is damaged.
    """
    description = describe_sidecar(path)
    if as_json:
        print(json.dumps(description))
    else:
        Console(highlight=False).print(sidecar_table(description))
