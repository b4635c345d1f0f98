"""Gates: making them, reading and writing their sidecars, looking into them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .sidecar.file import GateInfo, Sidecar, read_sidecar, write_sidecar
    from .sidecar.fingerprint import base_fingerprint
    from .sidecar.forward import log_beta
    from .sidecar.gate_set import GateFileError, GateSet, LayerGate, Linear
    from .sidecar.inspect import describe_sidecar, facts_table, sidecar_table

__all__ = [
    "GateFileError",
    "GateInfo",
    "GateSet",
    "LayerGate",
    "Linear",
    "Sidecar",
    "base_fingerprint",
    "describe_sidecar",
    "facts_table",
    "log_beta",
    "read_sidecar",
    "sidecar_table",
    "write_sidecar",
]

_HOMES = {
    "file": ("GateInfo", "Sidecar", "read_sidecar", "write_sidecar"),
    "fingerprint": ("base_fingerprint",),
    "forward": ("log_beta",),
    "gate_set": ("GateFileError", "GateSet", "LayerGate", "Linear"),
    "inspect": ("describe_sidecar", "facts_table", "sidecar_table"),
}


def __getattr__(name: str) -> Any:
    # reading the help needs none of it, and it takes a while to import
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f".sidecar.{home}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
