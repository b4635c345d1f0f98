"""Gates: making them, reading and writing their sidecars, looking into them."""

from ..models.gguf_header import GateFileError
from .sidecar.file import GateInfo, Sidecar, read_sidecar, write_sidecar
from .sidecar.fingerprint import base_fingerprint
from .sidecar.forward import log_beta
from .sidecar.gate_set import GateSet, LayerGate, Linear
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
