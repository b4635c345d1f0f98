"""The examples of the docs run, and show what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"

# words that an example prints only if it did what it is about
SHOWS = {
    "compare_policies.py": "gate, 1/8        848 cells   Jack works as a baker.",
    "eviction_hook.py": "73 of 217 tokens are kept in the first head of the first layer: [0, 4, 8, 12, 16,",
    "pinning.py": "all 18 tokens of the rules are kept in every head, among 234 that were read",
}


def test_every_example_is_tried() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(SHOWS)


@pytest.mark.parametrize("name", sorted(SHOWS))
def test_example(name: str) -> None:
    done = subprocess.run([sys.executable, EXAMPLES / name], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert SHOWS[name] in done.stdout
