"""Running the cases of a fuzzer: so many of them, or for a time, and naming the one that failed."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np


class Fuzzer(Protocol):
    def case(self, rng: np.random.Generator) -> None:
        """Try one input; raises when a promise is broken."""


MakeFuzzer = Callable[[Path], Fuzzer]


def run(
    make: MakeFuzzer,
    folder: Path,
    seed: int = 0,
    first: int = 0,
    cases: int | None = None,
    seconds: float | None = None,
    note: Callable[[int], None] = lambda case: None,
) -> int:
    """Run the cases from `first` on, until one of the limits; returns how many ran.

    Parameters
    ----------
    make : makes the fuzzer, with a folder for its files.
    seed, first : case i has the random numbers of (seed, i), whatever ran before it.
    note : is told the number of each case before it runs.

    Raises
    ------
    AssertionError : a case failed; the message names it.
    """
    fuzzer = make(folder)
    end = time.monotonic() + seconds if seconds is not None else float("inf")
    last = first + cases if cases is not None else sys.maxsize
    case = first
    while case < last and time.monotonic() < end:
        note(case)
        try:
            fuzzer.case(np.random.default_rng([seed, case]))
        except Exception as error:
            raise AssertionError(f"case {case} of seed {seed}: {type(error).__name__}: {error}") from error
        case += 1
    return case - first


def main(make: MakeFuzzer) -> None:
    """The command line of a fuzzer. The cases run in a child process, so that one which kills it is named too."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--seconds", type=float, help="run for so long (60, unless --cases is given)")
    parser.add_argument("--cases", type=int, help="run so many cases")
    parser.add_argument("--seed", type=int, default=0, help="of the cases (0)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (0)")
    parser.add_argument("--counter", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.counter is None:
        sys.exit(_watch(args))
    seconds = 60.0 if args.seconds is None and args.cases is None else args.seconds
    with tempfile.TemporaryDirectory() as folder, open(args.counter, "wb", buffering=0) as counter:

        def note(case: int) -> None:
            counter.seek(0)
            counter.write(b"%d" % case)

        n = run(make, Path(folder), args.seed, args.first, args.cases, seconds, note)
    print(f"{n:,} cases of seed {args.seed}, from {args.first} on: all as promised")


def _watch(args: argparse.Namespace) -> int:
    """Run the child; its exit status, with the case named that it died of."""
    module = sys.modules["__main__"].__spec__.name
    with tempfile.TemporaryDirectory() as folder:
        counter = Path(folder) / "case"
        status = subprocess.run(
            [sys.executable, "-m", module, *sys.argv[1:], "--counter", os.fspath(counter)]
        ).returncode
        if status and counter.exists():
            how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
            print(
                f"{how} in case {counter.read_text()}; to repeat it: "
                f"python -m {module} --seed {args.seed} --first {counter.read_text()} --cases 1",
                file=sys.stderr,
            )
    return 1 if status else 0
