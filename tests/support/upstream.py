"""llama-cpp-python's own tests, from the source distribution that the build uses."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

RELEASE = "llama_cpp_python-0.3.36"
UPSTREAM_VARIABLE = "RETAIN_UPSTREAM_DIR"

# what the tests read: they name the vocabulary relative to where they run
VOCABULARY = "vendor/llama.cpp/models/ggml-vocab-llama-spm.gguf"


def find_upstream(folder: Path) -> Path:
    """A folder with `tests` and the vocabulary: the unpacked distribution, or one made in `folder` from the cache."""
    if directory := os.environ.get(UPSTREAM_VARIABLE):
        return Path(directory).absolute()
    cache = os.environ.get("RETAIN_CACHE_DIR")
    base = Path(cache) if cache else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "retain-local"
    archive = base / "sdist" / f"{RELEASE}.tar.gz"
    if not archive.exists():
        pytest.skip(f"neither {UPSTREAM_VARIABLE} nor {archive} has the source distribution of {RELEASE}")
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name.startswith(f"{RELEASE}/tests/") or member.name == f"{RELEASE}/{VOCABULARY}":
                tar.extract(member, folder, filter="data")
    return folder / RELEASE


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """As a pytest plugin: leave out the tests that download a model."""
    downloads = [item for item in items if _downloads(item)]
    config.hook.pytest_deselected(items=downloads)
    items[:] = [item for item in items if item not in downloads]


def _downloads(item: pytest.Item) -> bool:
    """Whether a test asks for a fixture that gives the path of a downloaded model, by name or as a parameter."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    names = (*item.fixturenames, *map(str, parameters))
    return any(name.startswith("llama_cpp_") and name.endswith("model_path") for name in names)
