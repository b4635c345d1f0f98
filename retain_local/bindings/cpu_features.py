"""Whether this CPU has the instructions that the native libraries were compiled for."""

from __future__ import annotations

from pathlib import Path

FILE_NAME = "cpu-features.txt"  # written by native/cmake/cpu-features.cmake
CPUINFO = Path("/proc/cpuinfo")


def needed_features(folder: Path) -> list[str]:
    """What the libraries of a folder may use; empty where nothing says it."""
    try:
        return (folder / FILE_NAME).read_text(encoding="utf-8").split()
    except OSError:
        return []


def missing_features(folder: Path) -> list[str]:
    """What libraries may use and this CPU lacks.

    Parameters
    ----------
    folder : of the libraries.

    Returns
    -------
    Names of instruction sets as Linux has them, "avx512f" and the like. Empty also where it cannot be told: on a system
    without /proc/cpuinfo, on a CPU that is not of x86, and for libraries that have no list of what they need.
    """
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    flags = next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), None)
    return [] if flags is None else [name for name in needed_features(folder) if name not in flags]
