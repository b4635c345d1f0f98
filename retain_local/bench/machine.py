"""The machine that is timed: what it is called, how busy it is, what a process took of it."""

from __future__ import annotations

import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil

from ..errors import RetainError

BUSY = 0.10  # of one core: what an idle desktop may use, and not enough to tilt a ratio


def describe() -> str:
    """The processor and its cores."""
    return f"{_processor()}, {psutil.cpu_count(logical=False) or '?'} cores, {psutil.cpu_count()} threads"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def check_idle(seconds: float = 2.0) -> None:
    """Raise RetainError when other programs use the processor."""
    busy = psutil.cpu_percent(seconds) / 100 * (psutil.cpu_count() or 1)
    if busy > BUSY:
        raise RetainError(
            f"this machine is busy: other programs use {busy:.1f} of its cores, and would be measured too; stop them, or"
            " measure all the same with --anyway"
        )


def peak_resident() -> int:
    """Most bytes of memory that this process ever had."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def read_rate(n_bytes: int, repeat: int, n_threads: int) -> float:
    """Bytes each second that so many threads read, each one long run of memory; the best of some tries."""
    runs = [np.ones(n_bytes // 4 // n_threads, np.float32) for _ in range(n_threads)]
    best = float("inf")
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in range(repeat):
            start = time.perf_counter()
            list(pool.map(lambda run: np.dot(run, run), runs))
            best = min(best, time.perf_counter() - start)
    return sum(run.nbytes for run in runs) / best
