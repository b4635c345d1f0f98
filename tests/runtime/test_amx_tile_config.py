"""The configuration of AMX tiles, as compiled: a CPU reads all of its 64 bytes, and GCC must have written them all.

Built from upstream with the patch that stock libraries get too, so the test speaks for both. No CPU with AMX is needed.
"""

from __future__ import annotations

import platform
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

BUILDER = Path(__file__).parents[2] / "native" / "builder"
TARGET = ["-march=sapphirerapids"]
# TMM0 to TMM7: two tiles of weights, two of activations, four of sums
ROWS = [8, 8, 16, 16, 16, 16, 16, 16]
ROW_BYTES = [64, 64, 32, 32, 64, 64, 64, 64]
PALETTE = 1


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ggml's products of matrices on AMX, compiled for a CPU that has it."""
    if platform.machine() not in ("x86_64", "AMD64") or not sys.platform.startswith("linux"):
        pytest.skip("AMX is of x86-64, and its code is read here as Linux's tools print it")
    if not all(map(shutil.which, ("g++", "objdump", "readelf"))):
        pytest.skip("g++, objdump or readelf is missing")
    if subprocess.run(["g++", *TARGET, "-E", "-x", "c++", "/dev/null"], capture_output=True).returncode:
        pytest.skip("this g++ is too old to compile for AMX")
    folder = tmp_path_factory.mktemp("amx")
    subprocess.run([sys.executable, "-c", WRITE_SOURCES, str(BUILDER), str(folder)], check=True)
    ggml, built = folder / "ggml", folder / "amx.so"
    includes = [f"-I{ggml / name}" for name in ("include", "src", "src/ggml-cpu")]
    command = ["g++", *TARGET, "-std=gnu++17", "-O3", "-DNDEBUG", "-fPIC", "-shared", *includes]
    subprocess.run([*command, str(ggml / "src/ggml-cpu/amx/mmq.cpp"), "-o", str(built)], check=True)
    return built


# in a process of its own, as the builder's modules have names that others have too
WRITE_SOURCES = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import build, tree, upstream
sources = upstream.local_directory()
files = upstream.read_directory(sources) if sources else upstream.read_sdist(upstream.sdist(build.cache_directory()))
files = {name: content for name, content in files.items() if name.startswith("ggml/")}
patches = [build.NATIVE / "patches" / name for name in build.STOCK_PATCHES]
tree.sync(pathlib.Path(sys.argv[2]), tree.apply_patches(files, patches))
"""


def listing(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_cpu_reads_a_whole_configuration_from_read_only_data(library: Path) -> None:
    code = listing("objdump", "-d", "--no-show-raw-insn", str(library))
    addresses = re.findall(r"\bldtilecfg .*\(%rip\) +# ([0-9a-f]+)", code)
    assert addresses and len(addresses) == len(re.findall(r"\bldtilecfg ", code))
    sections = re.findall(
        r"\] (\S+) +PROGBITS +([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+) \S+ +([A-Z]+) ",
        listing("readelf", "-SW", str(library)),
    )
    colsb = ROW_BYTES + [0] * (16 - len(ROW_BYTES))
    rows = ROWS + [0] * (16 - len(ROWS))
    expected = struct.pack("<BB14x16H16B", PALETTE, 0, *colsb, *rows)
    for address in {int(text, 16) for text in addresses}:
        start, offset, flags = next(
            (int(start, 16), int(offset, 16), flags)
            for _, start, offset, size, flags in sections
            if int(start, 16) <= address < int(start, 16) + int(size, 16)
        )
        assert "W" not in flags and address % 64 == 0
        at = address - start + offset
        assert library.read_bytes()[at : at + 64] == expected


def test_each_thread_asks_for_the_tiles_before_it_configures_them(library: Path) -> None:
    code = listing("objdump", "-d", "-C", "--no-show-raw-insn", str(library))
    (function,) = [text for text in code.split("\n\n") if "ldtilecfg " in text]
    assert "ggml_amx_init()@plt" in function
    assert "__tls_get_addr" in function  # once a thread, not once a process
