"""What the machine offers: CMake, Ninja, the compilers, and a fingerprint of them."""

import hashlib
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

from console import BuildError

CMAKE_MINIMUM = (3, 21)
# not CC and CXX: build backends set them to another name of the compiler that is taken anyway
COMPILER_VARIABLES = ("CUDACXX", "CFLAGS", "CXXFLAGS", "CUDAFLAGS", "LDFLAGS")


def find_program(name):
    """A program beside this Python (a wheel of the virtual environment) or on the PATH."""
    beside = str(pathlib.Path(sys.executable).parent)
    return shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", "")]))


def cmake_version(cmake):
    text = subprocess.run([cmake, "--version"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    found = re.search(r"(\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found else (0, 0)


def missing_tools():
    """Names of the PyPI packages that would supply the build tools that are missing."""
    cmake = find_program("cmake")
    return ([] if cmake and cmake_version(cmake) >= CMAKE_MINIMUM else ["cmake"]) + (
        [] if find_program("ninja") else ["ninja"]
    )


def check_cmake(cmake):
    wanted = ".".join(map(str, CMAKE_MINIMUM))
    if not cmake:
        raise BuildError(f"CMake is not installed; {wanted} or newer is needed (pip install cmake ninja).")
    if cmake_version(cmake) < CMAKE_MINIMUM:
        raise BuildError(f"{cmake} is too old: CMake {wanted} or newer is needed (pip install cmake ninja).")
    return cmake


def compiler(variable, names):
    """The compiler that CMake will take, as the start of a command line."""
    command = shlex.split(os.environ.get(variable, "")) or [next(filter(shutil.which, names), names[0])]
    if not shutil.which(command[0]):
        raise BuildError(
            f"no {'C++' if variable == 'CXX' else 'C'} compiler: {command[0]} is not on the PATH "
            "(Debian, Ubuntu: apt install build-essential; Fedora: dnf install gcc-c++; "
            f"macOS: xcode-select --install), or name one in {variable}."
        )
    return command


def check_cuda():
    if not (os.environ.get("CUDACXX") or shutil.which("nvcc")):
        raise BuildError(
            "RETAIN_CUDA is on but nvcc is not on the PATH: install the CUDA toolkit, or name its nvcc in CUDACXX."
        )


def fingerprint():
    """A hash that changes with the compiler, its flags, or the CPU that -march=native means."""
    parts = [f"{name}={os.environ.get(name, '')}" for name in COMPILER_VARIABLES]
    if os.name == "nt":
        parts.append(os.environ.get("PROCESSOR_IDENTIFIER", ""))
    else:
        for variable, names in (("CC", ("cc", "gcc", "clang")), ("CXX", ("c++", "g++", "clang++"))):
            command = compiler(variable, names)
            # the predefined macros name the compiler's version and every instruction set of this CPU
            macros = [*command, "-march=native", "-dM", "-E", "-x", "c++" if variable == "CXX" else "c", os.devnull]
            parts.append(subprocess.run(macros, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
