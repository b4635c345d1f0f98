"""Of the builds in a portable wheel, the one for the newest CPU that this one is."""

from __future__ import annotations

from pathlib import Path

import pytest

from retain_local.bindings import cpu_features, library

BUILDS = {"nehalem": "sse4_2", "haswell": "sse4_2 avx2 fma", "icelake": "sse4_2 avx2 fma avx512f"}


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder of builds; call it with the flags of a CPU for the name of the build that is chosen."""
    for name, features in BUILDS.items():
        folder = tmp_path / "lib" / name
        folder.mkdir(parents=True)
        (folder / library.file_name("llama")).touch()
        (folder / cpu_features.FILE_NAME).write_text(features.replace(" ", "\n") + "\n")
    monkeypatch.setattr(library, "PACKAGED", tmp_path / "lib")

    def chosen(flags: str) -> str:
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text(f"processor : 0\nflags : {flags}\n")
        monkeypatch.setattr(cpu_features, "CPUINFO", cpuinfo)
        library.packaged.cache_clear()
        try:
            return library.packaged().name
        finally:
            library.packaged.cache_clear()

    return chosen


@pytest.mark.parametrize(
    "flags, name",
    [
        ("fpu sse4_2", "nehalem"),
        ("fpu sse4_2 avx2", "nehalem"),
        ("fpu sse4_2 avx2 fma", "haswell"),
        ("fpu sse4_2 avx2 fma avx512f amx_tile", "icelake"),
    ],
)
def test_the_best_that_runs(wheel, flags: str, name: str) -> None:
    assert wheel(flags) == name


def test_a_cpu_that_none_is_for_is_told_what_it_lacks(wheel, tmp_path: Path) -> None:
    folder = tmp_path / "lib" / wheel("fpu")
    with pytest.raises(library.LibraryError, match="this one lacks sse4_2"):
        library.check_cpu(folder)


def test_one_build_alone_lies_in_the_folder_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / library.file_name("llama")).touch()
    monkeypatch.setattr(library, "PACKAGED", tmp_path)
    library.packaged.cache_clear()
    assert library.packaged() == tmp_path
    library.packaged.cache_clear()
