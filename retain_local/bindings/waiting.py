"""How long the threads of a computation wait for each other before they sleep."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

# What a user may have set: then it is theirs to choose.
CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
# Rounds of a waiting loop. Measured by docs/tools/measure_waiting.py; the figures are in docs/reference/performance-parts.md.
ROUNDS = 1_000


def environment() -> dict[str, str]:
    """Variables to set for a process before it loads llama.cpp; none when the user has chosen.

    Without them a thread that has reached a barrier spins for 300,000 rounds, milliseconds in which it keeps a thread
    that it waits for from a CPU that both need.
    """
    return {} if any(name in os.environ for name in CHOICES) else {"GOMP_SPINCOUNT": str(ROUNDS)}


@contextmanager
def bounded() -> Iterator[None]:
    """Set them while the libraries are loaded, which is when GCC's OpenMP reads them, and not for what comes after."""
    added = environment()
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
