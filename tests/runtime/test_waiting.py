"""How long threads spin for each other: bounded, unless the user has chosen. GCC's OpenMP says what it took."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import TinyFiles
from retain_local.bench.side import Side
from retain_local.bindings import waiting
from support.libraries import PATCHED, STOCK_VARIABLE

LOAD = """
import os
from retain_local.bindings import library
library.load()
print(sorted(name for name in os.environ if name.startswith(("GOMP", "OMP"))))
"""


def rounds(said: str) -> list[str]:
    """The rounds of waiting that each loaded OpenMP reports."""
    found = re.findall(r"GOMP_SPINCOUNT = '(\w+)'", said)
    if not found:
        pytest.skip("the libraries are not built with GCC's OpenMP")
    return found


def without_a_choice() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in waiting.CHOICES}


@pytest.mark.parametrize(
    "chosen, taken",
    [
        ({}, str(waiting.ROUNDS)),
        ({"GOMP_SPINCOUNT": "77"}, "77"),
        ({"OMP_WAIT_POLICY": "passive"}, "0"),
    ],
)
def test_a_bound_that_the_user_may_choose(chosen: dict[str, str], taken: str) -> None:
    environment = {**without_a_choice(), "OMP_DISPLAY_ENV": "verbose", **chosen}
    done = subprocess.run([sys.executable, "-c", LOAD], env=environment, capture_output=True, text=True, check=True)
    assert rounds(done.stderr) == [taken]
    # what other libraries find, and programs that this one starts, is what was there before
    assert done.stdout.strip() == str(sorted([*chosen, "OMP_DISPLAY_ENV"]))


@pytest.mark.parametrize("name", ["ours", "stock"])
def test_both_sides_of_a_comparison_wait_alike(
    name: str, tiny: TinyFiles, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    libraries = os.environ.get(STOCK_VARIABLE) if name == "stock" else str(PATCHED)
    if not libraries:
        pytest.skip(f"{STOCK_VARIABLE} names no stock libraries")
    for choice in waiting.CHOICES:
        monkeypatch.delenv(choice, raising=False)
    monkeypatch.setenv("OMP_DISPLAY_ENV", "verbose")
    side = Side(name, Path(libraries))
    try:
        retention = {"budget": 64, "buffer": 16, "gates": None, "policy": "window"} if name == "ours" else None
        side.ask("open", retention=retention, model=str(tiny.model("llama")), n_ctx=128, n_ubatch=32, n_threads=1,
                 type_k=1, type_v=1, n_gpu_layers=0, seed=0)  # fmt: skip
    finally:
        side.close()
    assert rounds(capfd.readouterr().err) == [str(waiting.ROUNDS)]
