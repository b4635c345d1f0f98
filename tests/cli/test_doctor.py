"""`retain-local doctor` and the loading of the libraries."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from retain_local.bindings import library
from support.command_line import run
from support.libraries import PATCHED


def python(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=tempfile.gettempdir(),  # not the source tree, which "python -c" would import
        env={**os.environ, **environment},
        timeout=120,
    )


REPORT = """
from retain_local.errors import RetainError
try:
    import retain_local
    print(retain_local.Llama)
except RetainError as error:
    print(error)
"""


def test_a_good_installation(tmp_path: Path) -> None:
    done = run(tmp_path, "doctor")
    for word in (
        "Python",
        "llama-cpp-python",
        "libllama",
        "libmtmd",
        f"retention API {library.API_VERSION}",
        "device CPU",
        "CPU features",
    ):
        assert word in done.stdout
    wrong = [line for line in done.stdout.splitlines() if line.startswith("WRONG")]
    # the bundled model is made by training, and need not be there yet
    assert done.returncode == (1 if wrong else 0) and all("bundled model" in line for line in wrong)


def test_missing_libraries(tmp_path: Path) -> None:
    done = run(tmp_path, "doctor", LLAMA_CPP_LIB_PATH=str(tmp_path / "none"))
    assert done.returncode == 1 and done.stderr == ""
    assert "WRONG library folder" in done.stdout
    assert f"{tmp_path}/none (named by LLAMA_CPP_LIB_PATH)" in done.stdout
    assert "to mend it: unset LLAMA_CPP_LIB_PATH" in done.stdout
    assert "WRONG loading" in done.stdout and "are wrong" in done.stdout


def test_a_library_that_is_none(tmp_path: Path) -> None:
    (tmp_path / library.file_name("llama")).write_bytes(b"not a library")
    done = run(tmp_path, "doctor", LLAMA_CPP_LIB_PATH=str(tmp_path))
    assert done.returncode == 1 and "cannot be loaded" in done.stdout


def test_bindings_of_another_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "bindings_version", lambda: "0.3.1")
    with pytest.raises(library.LibraryError) as caught:
        library.check_bindings()
    assert "llama-cpp-python 0.3.1 is installed" in caught.value.problem
    assert caught.value.remedy == f"install llama-cpp-python=={library.BINDINGS_VERSION}"
    monkeypatch.setattr(library, "bindings_version", lambda: None)
    with pytest.raises(library.LibraryError, match="is not installed; install llama-cpp-python=="):
        library.check_bindings()


def test_stock_libraries_are_named_as_such() -> None:
    from support.libraries import STOCK_VARIABLE

    if not os.environ.get(STOCK_VARIABLE):
        pytest.skip(f"set {STOCK_VARIABLE} to a folder with stock libraries of the same release")
    stock = os.environ[STOCK_VARIABLE]
    done = python(REPORT, LLAMA_CPP_LIB_PATH=stock)
    assert "is a stock llama.cpp without a retention cache; unset LLAMA_CPP_LIB_PATH" in done.stdout
    done = python("import llama_cpp\n" + REPORT, LLAMA_CPP_LIB_PATH=stock)
    assert "llama_cpp was imported before retain_local: import retain_local first" in done.stdout


def test_llama_cpp_may_come_first_with_our_libraries() -> None:
    done = python("import llama_cpp\n" + REPORT, LLAMA_CPP_LIB_PATH=str(PATCHED))
    assert "class 'retain_local.llama.Llama'" in done.stdout


def test_importing_the_package_loads_nothing(tmp_path: Path) -> None:
    done = python("import retain_local, sys; print('llama_cpp' in sys.modules, retain_local.RetainError.__name__)")
    assert done.stdout.split() == ["False", "RetainError"]
    import retain_local

    assert not hasattr(retain_local, "Nothing")
