"""`retain-local doctor` and the loading of the libraries."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pexpect
import pytest

from retain_local.bindings import cpu_features, library
from retain_local.paths import BUNDLED_MODEL
from support.command_line import run
from support.libraries import PATCHED
from support.terminal import plain, spawn


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
    assert done.returncode == 0 and not wrong, wrong
    assert "decoding          a Q4_0 model reads 61 tokens and writes 8" in done.stdout


def test_a_line_of_a_terminal_is_not_broken_within_words(tmp_path: Path) -> None:
    doctor = spawn(tmp_path, "doctor", columns=80)
    doctor.expect(pexpect.EOF)
    lines = plain(doctor.before).splitlines()
    assert any(line.startswith("ok    CPU features") for line in lines)
    assert all(len(line) <= 80 or " " not in line[24:] for line in lines), lines


def test_missing_libraries(tmp_path: Path) -> None:
    done = run(tmp_path, "doctor", LLAMA_CPP_LIB_PATH=str(tmp_path / "none"))
    assert done.returncode == 1 and done.stderr == ""
    assert "WRONG library folder" in done.stdout
    assert f"{tmp_path}/none (named by LLAMA_CPP_LIB_PATH)" in done.stdout
    assert "to fix it: unset LLAMA_CPP_LIB_PATH" in done.stdout
    assert "WRONG loading" in done.stdout and "are wrong" in done.stdout


def test_a_library_that_is_none(tmp_path: Path) -> None:
    (tmp_path / library.file_name("llama")).write_bytes(b"not a library")
    done = run(tmp_path, "doctor", LLAMA_CPP_LIB_PATH=str(tmp_path))
    assert done.returncode == 1 and "cannot be loaded" in done.stdout


# what a process meets on a CPU without the instructions of its libraries, or that they are wrong for
DIES_AT_A_GRAPH = """
void ggml_backend_sched_graph_compute_async(void) { %s; }
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a library is put before others with LD_PRELOAD")
@pytest.mark.parametrize(
    "signal, code",
    [("SIGILL", "__builtin_trap()"), ("SIGSEGV", "*(volatile int *) 8 = 1"), ("SIGABRT", "__builtin_abort()")],
)
def test_libraries_that_die_when_they_compute(tmp_path: Path, signal: str, code: str) -> None:
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    source, library_that_dies = tmp_path / "dies.c", tmp_path / "dies.so"
    source.write_text(DIES_AT_A_GRAPH % code)
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(library_that_dies)], check=True)
    done = run(tmp_path, "doctor", LD_PRELOAD=str(library_that_dies))
    assert done.returncode == 1 and done.stderr == ""
    assert f"WRONG decoding          a quantised model ends its process ({signal}) with these libraries" in done.stdout
    assert "to fix it: build them here" in done.stdout and "CMAKE_ARGS=-DGGML_NATIVE=OFF" in done.stdout
    assert "1 of 15 are wrong" in done.stdout


def test_a_model_that_cannot_be_tried(tmp_path: Path) -> None:
    """What the process of the trial says about an error is handed on."""
    (tmp_path / "empty.gguf").write_bytes(b"")
    script = f"from retain_local.commands import trial\ntrial.BUNDLED_MODEL = {str(tmp_path / 'empty.gguf')!r}\n"
    done = python(f"{script}raise SystemExit(trial.main())")
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == f"{tmp_path}/empty.gguf cannot be quantised"


def test_libraries_for_another_cpu(tmp_path: Path) -> None:
    """One line before anything is loaded, where loading or computing would be an illegal instruction."""
    if not cpu_features.CPUINFO.is_file() or "\nflags" not in cpu_features.CPUINFO.read_text():
        pytest.skip("the features of this CPU are not listed")

    for path in PATCHED.glob("*.so"):
        (tmp_path / path.name).symlink_to(path)
    listed = tmp_path / cpu_features.FILE_NAME
    listed.write_text("sse2\nno_such_set\namx_of_tomorrow\n")
    done = run(tmp_path, "run", BUNDLED_MODEL, "-p", "x", LLAMA_CPP_LIB_PATH=str(tmp_path))
    assert done.returncode == 1 and done.stderr.splitlines() == [
        f"retain-local: the libraries in {tmp_path} were built for another CPU: this one lacks no_such_set, amx_of_tomorrow; "
        "build them here (make clean all in the source, or install retain-local again), "
        "or build for any CPU, with CMAKE_ARGS=-DGGML_NATIVE=OFF"
    ]
    done = run(tmp_path, "doctor", LLAMA_CPP_LIB_PATH=str(tmp_path))
    assert done.returncode == 1 and "WRONG loading" in done.stdout and "to fix it: build them here" in done.stdout
    listed.write_text("sse2\n")
    assert "all is well" in run(tmp_path, "doctor", LLAMA_CPP_LIB_PATH=str(tmp_path)).stdout


def test_the_libraries_say_what_they_need() -> None:
    """The list that the build wrote beside them, on a CPU that has all of it."""

    if platform.machine() not in ("x86_64", "AMD64") or not sys.platform.startswith("linux"):
        pytest.skip("the list is made for Linux on x86-64")
    needed = (PATCHED / cpu_features.FILE_NAME).read_text().split()
    assert {"sse4_2", "avx", "f16c"} <= set(needed) and cpu_features.missing_features(PATCHED) == []


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
    for first in ("", "import llama_cpp\n"):
        done = python(first + REPORT, LLAMA_CPP_LIB_PATH=stock)
        assert "is a stock llama.cpp without a retention cache; unset LLAMA_CPP_LIB_PATH" in done.stdout


def test_llama_cpp_may_come_first_with_our_libraries() -> None:
    done = python("import llama_cpp\n" + REPORT, LLAMA_CPP_LIB_PATH=str(PATCHED))
    assert "class 'retain_local.llama.Llama'" in done.stdout


def test_importing_the_package_loads_nothing(tmp_path: Path) -> None:
    done = python("import retain_local, sys; print('llama_cpp' in sys.modules, retain_local.RetainError.__name__)")
    assert done.stdout.split() == ["False", "RetainError"]
    import retain_local

    assert not hasattr(retain_local, "Nothing")
