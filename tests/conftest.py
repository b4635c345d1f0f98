"""Fixtures that every test may use: tiny models and their gates, made once per run."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

# Threads of a computation that wait for each other sleep instead of spinning, which takes ten times as long on a busy
# machine. Read when the native libraries are loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# NumPy's spin too, and its products here are small.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Kernels in Triton are interpreted, which needs no GPU. Read when Triton is imported.
os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
from hypothesis import settings

from retain_local.bindings import library
from retain_local.errors import RetainError
from support.real_models import GEMMA3, SMOLLM2, NotFetchedError, RealModel, fetch
from support.tiny_gates import random_gates, write_tiny_gates
from support.tiny_models import MIXED_MODELS, TINY_MODELS, write_tiny_model

pytest_plugins = ["support.server_fixtures"]

# Without them nothing here can run, so that it is said once and at once.
try:
    library.load()
except RetainError as error:
    pytest.exit(f"the native libraries cannot be used: {error}", returncode=pytest.ExitCode.USAGE_ERROR)

# A shell without job control starts what runs in the background deaf to Ctrl-C, and programs that are started from there
# would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadlines: shared machines stall. Under CI the examples are the same in every run.
settings.register_profile("default", deadline=None, print_blob=True)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


class TinyFiles:
    """Makes tiny models and sidecars on first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def model(self, arch: str) -> Path:
        """A model of `TINY_MODELS` or `MIXED_MODELS`."""
        path = self.folder / f"{arch}.gguf"
        return path if path.exists() else write_tiny_model(path, (TINY_MODELS | MIXED_MODELS)[arch])

    def gates(self, arch: str, variant: str = "rg10", tied: bool = True, weight_type: str = "f32") -> Path:
        """Random gates for it."""
        path = self.folder / f"{arch}-{variant}-{tied}-{weight_type}.gates.gguf"
        if path.exists():
            return path
        model = (TINY_MODELS | MIXED_MODELS)[arch]
        gates = random_gates(len(model.pool_layers), model.n_embd, model.n_head_kv, variant, tied)
        if arch in MIXED_MODELS:
            gates = replace(gates, indices=tuple(model.pool_layers), block_count=model.n_layer)
        return write_tiny_gates(path, self.model(arch), model, gates, weight_type)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyFiles:
    return TinyFiles(tmp_path_factory.mktemp("tiny"))


def fetched(model: RealModel) -> Path:
    try:
        return fetch(model)
    except NotFetchedError as error:
        pytest.skip(f"{model.file} is not here: {error}")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct with weights in Q4_1; skips where it cannot be had."""
    return fetched(SMOLLM2)


@pytest.fixture(scope="session")
def gemma3() -> Path:
    """Gemma 3 270M with weights in Q4_K and others; skips where it cannot be had."""
    return fetched(GEMMA3)
