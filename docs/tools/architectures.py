"""Write docs/architectures.md from what the native test of all architectures finds.

    .venv/bin/python docs/tools/architectures.py

The test builds a random model of each architecture, as llama.cpp's own test does, and tries it; `make native-test` checks
that the page says the same.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architectures.md"
BUILDER = [sys.executable, str(ROOT / "native" / "builder")]

INTRO = """# Architectures

Which models run in a cache of fixed size. `docs/tools/architectures.py` writes the tables from a native test that makes a
random model of each architecture of the pinned llama.cpp and tries it, and the test checks that they agree. What is accepted
computes what stock llama.cpp computes while nothing is evicted, keeps the budget, and goes on from saved states. The names are
those of `general.architecture` in the model's file.

- *plain*: all layers attend to everything, and the pool holds them all.
- *windows*: the pool holds the layers with full attention; those with a sliding window keep llama.cpp's small cache.
- *hybrid*: the pool holds the layers with attention; recurrent layers keep llama.cpp's state.

[Models that mix](architecture.md#models-that-mix) says what that means. "Gates: no" means that the layers project queries, keys
and values from something that gates cannot read; every policy but `gate` works.

| architecture | cache | gates |
|---|---|---|
"""

REFUSED = """
## Refused

These are refused with their reason before a cache is allocated. Contexts that draft tokens for another one (MTP) keep a stock
cache, and a model whose tensors are split over devices is refused: split it by layers.

| architecture | why |
|---|---|
"""

REST = """
llama.cpp's test can make no random model of the following: {names}. Those that are encoders, drafters or recurrent are refused
by their names, as the program reads them from the file.
"""


def main() -> None:
    # builds it; that it fails on an old page is why this runs
    subprocess.run([*BUILDER, "test", "-R", "native-retain-archs"], check=False, stdout=subprocess.DEVNULL)
    folder = subprocess.run([*BUILDER, "libs"], check=True, capture_output=True, text=True).stdout.split("\n")[-2]
    done = subprocess.run([f"{folder}/native-retain-archs", "--list"], check=True, capture_output=True, text=True)
    rows = done.stdout.splitlines()
    accepted = [row for row in rows if row.count("|") == 4]
    refused = [row for row in rows if row.count("|") == 3]
    names = done.stderr.partition("not made: ")[2].strip()
    text = INTRO + "\n".join(accepted) + "\n" + REFUSED + "\n".join(refused) + "\n" + REST.format(names=names)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
