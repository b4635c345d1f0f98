"""llama-cpp-python's own tests, and llama.cpp's chat templates and vocabularies, from the source distribution."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from support.cache_directory import cache_directory

RELEASE = "llama_cpp_python-0.3.36"
UPSTREAM_VARIABLE = "RETAIN_UPSTREAM_DIR"

# what the tests read: they name the vocabulary relative to where they run
VOCABULARY = "vendor/llama.cpp/models/ggml-vocab-llama-spm.gguf"

MODELS = f"{RELEASE}/vendor/llama.cpp/models/"


def find_upstream(folder: Path) -> Path:
    """A folder with `tests` and the vocabulary: the unpacked distribution, or one made in `folder` from the cache."""
    if directory := os.environ.get(UPSTREAM_VARIABLE):
        return Path(directory).absolute()
    archive = find_archive()
    if not archive.exists():
        pytest.skip(f"neither {UPSTREAM_VARIABLE} nor {archive} has the source distribution of {RELEASE}")
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name.startswith(f"{RELEASE}/tests/") or member.name == f"{RELEASE}/{VOCABULARY}":
                tar.extract(member, folder, filter="data")
    return folder / RELEASE


def find_archive() -> Path:
    """Where the build keeps the source distribution, whether it is there or not."""
    return cache_directory() / "sdist" / f"{RELEASE}.tar.gz"


@cache
def chat_templates() -> dict[str, str]:
    """llama.cpp's chat templates by name; skips the test without the source distribution."""
    beginning, ending = f"{MODELS}templates/", ".jinja"
    return {
        name.removeprefix(beginning).removesuffix(ending): content.decode()
        for name, content in _contents(lambda name: name.startswith(beginning) and name.endswith(ending))
    }


def write_vocabularies(folder: Path, *names: str) -> list[Path]:
    """llama.cpp's models without weights, as `qwen2`; skips the test without the source distribution."""
    wanted = {f"{MODELS}ggml-vocab-{name}.gguf": folder / f"{name}.gguf" for name in names}
    for name, content in _contents(wanted.__contains__):
        wanted[name].write_bytes(content)
    return list(wanted.values())


def _contents(is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    archive = find_archive()
    if not archive.exists():
        pytest.skip(f"{archive}, the source distribution of {RELEASE}, is missing")
    with tarfile.open(archive) as tar:
        for member in tar:
            if is_wanted(member.name):
                yield member.name, tar.extractfile(member).read()


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
