"""Gates: making them, reading and writing their sidecars, looking into them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .sidecar.file import Sidecar, read_sidecar, write_sidecar
    from .sidecar.fingerprint import base_fingerprint
    from .sidecar.forward import gate_output
    from .sidecar.gate_set import GateFileError, GateSet, KVzipGate, LayerGate, Linear
    from .sidecar.inspect import describe_sidecar, facts_table, sidecar_table
    from .sidecar.metadata import GateInfo

__all__ = [
    "GateFileError",
    "GateInfo",
    "GateSet",
    "KVzipGate",
    "LayerGate",
    "Linear",
    "Sidecar",
    "base_fingerprint",
    "describe_sidecar",
    "facts_table",
    "gate_output",
    "read_sidecar",
    "sidecar_table",
    "write_sidecar",
]

_HOMES = {
    "file": ("Sidecar", "read_sidecar", "write_sidecar"),
    "fingerprint": ("base_fingerprint",),
    "forward": ("gate_output",),
    "gate_set": ("GateFileError", "GateSet", "KVzipGate", "LayerGate", "Linear"),
    "inspect": ("describe_sidecar", "facts_table", "sidecar_table"),
    "metadata": ("GateInfo",),
}


def __getattr__(name: str) -> Any:
    # reading the help needs none of it, and it takes a while to import
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f".sidecar.{home}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
