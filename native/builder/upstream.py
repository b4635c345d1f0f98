"""The pinned llama.cpp: obtained as a source distribution, checked, and read into memory."""

import hashlib
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile

from console import BuildError, say

PACKAGE = "llama-cpp-python"
VERSION = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"

VENDORED = "vendor/llama.cpp/"
# what the build of the libraries, of the server and of upstream's own tests reads: a third of the source distribution
PARTS = (
    "CMakeLists.txt",
    "LICENSE",
    "cmake/",
    "common/",
    "ggml/",
    "include/",
    "scripts/ui-assets.cmake",
    "src/",
    "tests/test-llama-archs.cpp",
    "tests/test-mtmd-",
    "tests/test-recurrent-state-rollback.cpp",
    "tests/test-save-load-state.cpp",
    "tests/test-state-restore-fragmented.cpp",
    "tests/test-thread-safety.cpp",
    "tests/testing.h",
    "tools/",
    "vendor/",
)

OFFLINE_HINT = (
    f"To build without a network, get the source distribution of {PACKAGE} {VERSION} elsewhere, unpack it, "
    "and name the unpacked directory in RETAIN_UPSTREAM_DIR."
)


def local_directory():
    """The unpacked source distribution that the user named, or None."""
    name = os.environ.get("RETAIN_UPSTREAM_DIR")
    return pathlib.Path(name).expanduser().resolve() if name else None


def is_needed(path):
    return path.startswith(PARTS)


def sdist(cache):
    """Path of the source distribution, its checksum verified; downloaded once."""
    path = cache / "sdist" / f"llama_cpp_python-{VERSION}.tar.gz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as directory:
            download(pathlib.Path(directory)).replace(path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise BuildError(
            f"{path} has the wrong checksum.\n  expected {SHA256}\n  found    {found}\n"
            "Delete the file to download it again."
        )
    return path


def download(directory):
    """Let pip fetch the source distribution into a directory; pip checks the hash before it runs anything of it."""
    say(f"downloading {PACKAGE} {VERSION} (73 MB)")
    requirements = directory / "requirements.txt"
    requirements.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n")
    # inside an isolated build, PYTHONPATH hides the interpreter's own pip
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PIP_BUILD_TRACKER")}
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--no-input",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            PACKAGE,
            "--require-hashes",
            "--requirement",
            str(requirements),
            "--dest",
            str(directory),
        ],
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    files = list(directory.glob("*.tar.gz"))
    if result.returncode or len(files) != 1:
        raise BuildError(f"pip could not download {PACKAGE} {VERSION}:\n{result.stdout.strip()}\n{OFFLINE_HINT}")
    return files[0]


def read_sdist(path):
    """Files of the vendored llama.cpp as {path: content}."""
    files = {}
    prefix = f"llama_cpp_python-{VERSION}/{VENDORED}"
    with tarfile.open(path) as archive:
        for member in archive:
            name = member.name.removeprefix(prefix)
            if member.isfile() and name != member.name and is_needed(name):
                files[name] = archive.extractfile(member).read()
    return files


def read_directory(directory):
    """The same from an unpacked source distribution."""
    info = directory / "PKG-INFO"
    if not info.is_file() or not (directory / VENDORED / "CMakeLists.txt").is_file():
        raise BuildError(
            f"RETAIN_UPSTREAM_DIR={directory} is not an unpacked source distribution of {PACKAGE}: "
            f"it must hold PKG-INFO and {VENDORED}CMakeLists.txt."
        )
    if f"\nVersion: {VERSION}\n" not in info.read_text(encoding="utf-8"):
        raise BuildError(f"RETAIN_UPSTREAM_DIR={directory} is another version of {PACKAGE}: {VERSION} is needed.")
    root = directory / VENDORED
    names = {path.relative_to(root).as_posix(): path for path in root.rglob("*")}
    return {name: path.read_bytes() for name, path in names.items() if is_needed(name) and path.is_file()}
