"""Stock llama.cpp of the same version: found, or built into the cache directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ..bindings import library
from ..errors import RetainError

VARIABLE = "RETAIN_STOCK_LIB_DIR"
SOURCES = Path(__file__).parent / "native"  # the native part, as the wheel holds it


def stock_libraries() -> Path:
    """Folder of the stock libraries; the first time they are built, which takes minutes.

    Raises
    ------
    RetainError : what `RETAIN_STOCK_LIB_DIR` names is none or for another CPU, or they cannot be built.
    """
    if named := os.environ.get(VARIABLE):
        if not (Path(named) / library.file_name("llama")).exists():
            raise RetainError(f"{VARIABLE}={named} holds no {library.file_name('llama')}; unset it, and stock is built")
        library.check_cpu(Path(named).absolute())
        return Path(named).absolute()
    done = subprocess.run([sys.executable, SOURCES / "builder", "stock"], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RetainError("stock llama.cpp could not be built; what is missing is said above")
    return Path(done.stdout.splitlines()[-1])
