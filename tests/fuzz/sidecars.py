"""Damaged gate sidecars: both readers give the same verdict, by the rule in docs/gate-sidecar.md."""

from __future__ import annotations

import ctypes
from copy import deepcopy
from pathlib import Path

import numpy as np

from fuzz.gguf_mutations import mutate_gguf
from fuzz.run import main
from retain_local import Llama
from retain_local.bindings import retain_h
from retain_local.gates import GateFileError, base_fingerprint
from retain_local.gates.sidecar.file import read_sidecar
from support.gguf_file import GGUFFile, parse
from support.tiny_gates import random_gates, static_gates, write_tiny_gates
from support.tiny_models import TinyModel, write_tiny_model

MODEL = TinyModel("llama", n_layer=2, n_embd=32, n_head=2, n_head_kv=1, head_size=16, n_ff=32)
KINDS = [
    ("rg10", True, "f32"),
    ("rg10", False, "f16"),
    ("rg10", True, "q8_0"),
    ("rg", False, "q8_0"),
    ("rg", False, "f32"),
]
FORMS = ("linear", "mlp", "fast_kvzip")


def as_version_1(file: GGUFFile) -> GGUFFile:
    """Gates of all layers as version 1 of the format has them."""
    of_version_2 = (b"retention_gate.layers", b"retention_gate.score")
    file.entries = [entry for entry in file.entries if entry.key not in of_version_2]
    file.entry("retention_gate.version").value = 1
    heads = file.entry("retention_gate.head_count_kv")
    heads.value, heads.is_array = MODEL.n_head_kv, False
    return file


class SidecarFuzzer:
    """Sidecars of every kind for one tiny model."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "changed.gates.gguf"
        model_path = write_tiny_model(folder / "model.gguf", MODEL)
        self.fingerprint = base_fingerprint(model_path)
        self.llm = Llama(model_path, n_ctx=32, n_batch=32, n_ubatch=32, n_threads=1, budget=32)
        sizes = MODEL.n_layer, MODEL.n_embd, MODEL.n_head_kv
        made = [(random_gates(*sizes, variant, tied, n_ff=32), type) for variant, tied, type in KINDS]
        made += [(static_gates(*sizes, form, window=128), type) for form in FORMS for type in ("f32", "q8_0")]
        made.append((static_gates(*sizes, "linear", indices=(1,)), "f16"))
        self.files = [
            parse(write_tiny_gates(self.path, model_path, MODEL, gates, type).read_bytes()) for gates, type in made
        ]
        self.files += [as_version_1(file) for file in deepcopy(self.files[: len(KINDS)])]

    def case(self, rng: np.random.Generator) -> None:
        self.path.write_bytes(mutate_gguf(rng, self.files[rng.integers(len(self.files))]))
        ours, native = self.refused_by_python(), self.refused_by_llama()
        assert (ours is None) == (native is None), (
            f"Python says {ours or 'taken'}, the native reader {native or 'taken'}"
        )

    def refused_by_python(self) -> str | None:
        """Why; None when it is taken."""
        try:
            sidecar = read_sidecar(self.path)
        except GateFileError as error:
            return str(error)
        info, gates = sidecar.info, sidecar.gates
        have = (info.architecture, gates.n_layer, gates.n_embd, set(gates.heads))
        if have != (MODEL.arch, MODEL.n_layer, MODEL.n_embd, {MODEL.n_head_kv}):
            return "for another model"
        if info.base_fingerprint not in (None, self.fingerprint):
            return "made for another model"
        return None

    def refused_by_llama(self) -> str | None:
        """Why; None when it is taken."""
        model = ctypes.c_void_p(self.llm._model.model)
        return None if retain_h.gates_check(model, bytes(self.path)) else retain_h.error_text()


if __name__ == "__main__":
    main(SidecarFuzzer)
