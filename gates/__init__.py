"""Gates: making them, reading and writing their sidecars, looking into them."""

from .fingerprint import base_fingerprint
from .forward import log_beta
from .gguf_header import GateFileError
from .inspect import describe_sidecar, facts_table, sidecar_table
from .model import GateSet, LayerGate, Linear
from .sidecar import GateInfo, Sidecar, read_sidecar, write_sidecar

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
