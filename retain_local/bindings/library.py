"""Finding and loading the patched llama.cpp libraries.

The stock ctypes bindings of llama-cpp-python load whatever `LLAMA_CPP_LIB_PATH` names at the moment they are imported.
`import retain_local` sets it, and everything of ours that needs them goes through `load` first. Bindings that were
imported before, on libraries of their own, are made to call ours.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Any

from ..errors import RetainError
from . import cpu_features, waiting

PACKAGED = Path(__file__).parents[1] / "lib"
LLAMA_VARIABLE, MTMD_VARIABLE = "LLAMA_CPP_LIB_PATH", "MTMD_CPP_LIB"

BINDINGS = "llama-cpp-python"
BINDINGS_VERSION = "0.3.36"
API_VERSION = 6
_OURS = "retain_api_version"  # a function that stock libraries do not have

FOR_THIS_CPU = (
    "build them here (make clean all in the source, or install retain-local again), "
    "or build for any CPU, with CMAKE_ARGS=-DGGML_NATIVE=OFF"
)
_FIRST = "put `import retain_local` before `import llama_cpp`"


class LibraryError(RetainError):
    """The native libraries cannot be used: `problem` says why, `remedy` how to mend it."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem, self.remedy = problem, remedy


def directory() -> Path:
    """Folder of the libraries: `LLAMA_CPP_LIB_PATH` where it is set, else the one inside this package."""
    override = os.environ.get(LLAMA_VARIABLE)
    return Path(override) if override else packaged()


@functools.cache
def packaged() -> Path:
    """Folder of this package's libraries. A portable wheel has several builds: the one for the newest CPU that runs here."""
    builds = [folder for folder in PACKAGED.glob("*") if _path(folder).exists()]
    fitting = [folder for folder in builds if not cpu_features.missing_features(folder)]
    return max(fitting or builds, key=lambda folder: len(cpu_features.needed_features(folder)), default=PACKAGED)


def file_name(base: str) -> str:
    """File name of a shared library on this platform, as the bindings look for it."""
    if sys.platform == "win32":
        return f"{base}.dll"
    return f"lib{base}.dylib" if sys.platform == "darwin" else f"lib{base}.so"


def bindings_version() -> str | None:
    """Version of llama-cpp-python that is installed, without importing it; None when it is not."""
    try:
        return importlib.metadata.version(BINDINGS)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_bindings() -> None:
    """Raise LibraryError unless the installed bindings are the release that the libraries were built from."""
    version = bindings_version()
    remedy = f"install {BINDINGS}=={BINDINGS_VERSION}"
    if version is None:
        raise LibraryError(f"{BINDINGS} is not installed", remedy)
    if version != BINDINGS_VERSION:
        raise LibraryError(
            f"{BINDINGS} {version} is installed, but the libraries were built from {BINDINGS_VERSION}", remedy
        )


def check_cpu(folder: Path) -> None:
    """Raise LibraryError if this CPU lacks instructions that the libraries of a folder were built to use."""
    if missing := cpu_features.missing_features(folder):
        raise LibraryError(
            f"the libraries in {folder} were built for another CPU: this one lacks {', '.join(missing)}", FOR_THIS_CPU
        )


def offer() -> None:
    """Name our libraries to bindings that are imported from now on, unless others are named."""
    if (
        LLAMA_VARIABLE not in os.environ
        and _path(packaged()).exists()
        and not cpu_features.missing_features(packaged())
    ):
        _name(packaged())


@functools.cache
def load() -> ctypes.CDLL:
    """Import llama_cpp on our libraries and return libllama.

    Raises
    ------
    LibraryError : bindings missing or of another release, libraries missing, unloadable, built for another CPU, without
        the retention API or with another version of it, or llama_cpp already in use with other libraries.
    """
    check_bindings()
    if "llama_cpp" in sys.modules and hasattr(_bindings()._lib, _OURS):
        return _checked(_bindings()._lib, remedy())
    folder = directory().absolute()
    path = _path(folder)
    if not path.exists():
        raise LibraryError(f"the native libraries are not there: {path} is missing", remedy())
    check_cpu(folder)
    _name(folder)
    is_late = "llama_cpp" in sys.modules
    try:
        with waiting.bounded():
            if is_late:
                _take_over(_checked(ctypes.CDLL(str(path)), remedy()))
            import llama_cpp  # noqa: F401
    except (OSError, RuntimeError) as error:
        raise LibraryError(f"{path} cannot be loaded: {error}", _FIRST if is_late else remedy()) from None
    except AttributeError as error:
        raise LibraryError(f"{path} is not llama.cpp as of {BINDINGS} {BINDINGS_VERSION}: {error}", remedy()) from None
    return _checked(_bindings()._lib, remedy())


def is_overridden() -> bool:
    """Whether the libraries are not the ones of this package."""
    return directory().absolute() != packaged().absolute()


def remedy() -> str:
    """What to do about libraries that are missing or wrong."""
    if is_overridden():
        return f"unset {LLAMA_VARIABLE} to use the libraries of this package, or point it at a complete build"
    return "run make in the source, or install retain-local again"


def _path(folder: Path) -> Path:
    return folder / file_name("llama")


def _name(folder: Path) -> None:
    os.environ[LLAMA_VARIABLE] = str(folder.absolute())
    os.environ.setdefault(MTMD_VARIABLE, str(folder.absolute()))


def _bindings() -> Any:
    from llama_cpp import llama_cpp as bindings

    return bindings


def _take_over(ours: ctypes.CDLL) -> None:
    """Make bindings that were imported on another library call ours, wherever their functions were imported to.

    Structures and classes stay, so that what was made of them stays good. What the other library made would not: it
    must have made nothing yet.

    Raises
    ------
    LibraryError : a model was loaded with it, or it is held by another library.
    """
    import llama_cpp

    others = _bindings()._lib
    if getattr(llama_cpp.Llama, "_Llama__backend_initialized", False) or "llama_cpp.mtmd_cpp" in sys.modules:
        raise LibraryError(
            f"llama_cpp is in use already with the libraries it came with ({others._name})",
            _FIRST,
        )
    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if isinstance(value, others._FuncPtr):
                function = getattr(ours, value.__name__)
                function.argtypes, function.restype = value.argtypes, value.restype
                setattr(module, name, functools.update_wrapper(function, value))
    _bindings()._lib = ours


def _checked(lib: ctypes.CDLL, remedy: str) -> ctypes.CDLL:
    """The library, if it has our API in our version."""
    if not hasattr(lib, _OURS):
        raise LibraryError(f"{lib._name} is a stock llama.cpp without a retention cache", remedy)
    lib.retain_api_version.restype = ctypes.c_int32
    lib.retain_upstream_version.restype = ctypes.c_char_p
    api, upstream = lib.retain_api_version(), lib.retain_upstream_version().decode()
    if api != API_VERSION:
        raise LibraryError(f"{lib._name} has retention API {api}, this program needs {API_VERSION}", remedy)
    if upstream != BINDINGS_VERSION:
        raise LibraryError(f"{lib._name} was built from {BINDINGS} {upstream}, not {BINDINGS_VERSION}", remedy)
    return lib
