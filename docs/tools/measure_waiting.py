"""How long threads should spin for each other before they sleep: tokens written on an idle and on a busy machine.

    python docs/tools/measure_waiting.py model.gguf [--threads 2] [--rounds 300000,1000,0] [--repeat 3]

Each setting runs in a process of its own, in turn, once alone and once beside as many spinning processes as there are
CPUs, as a turn on a busy machine differs from the next by a factor. Printed are milliseconds a token, of up to five
seconds of writing, and tokens a second of the prompt: medians over the turns, and the range.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

SPIN = [sys.executable, "-c", "while True: pass"]
N_PROMPT, LIMIT_S = 128, 5.0


def worker(model: str, n_threads: int, n_tokens: int) -> None:
    """Read a prompt and write tokens; print ms a token and the prompt's tokens a second."""
    from retain_local import Llama

    llm = Llama(
        model, budget=512, policy="window", gates=None, n_ctx=1024, n_threads=n_threads, n_threads_batch=n_threads
    )
    tokens = [(97 * i) % llm.n_vocab() for i in range(N_PROMPT)]
    started = time.perf_counter()
    llm.eval(tokens)
    rate = N_PROMPT / (time.perf_counter() - started)
    started, n_written = time.perf_counter(), 0
    while n_written < n_tokens and time.perf_counter() < started + LIMIT_S:
        llm.eval([tokens[n_written % N_PROMPT]])
        n_written += 1
    print(json.dumps({"ms": 1e3 * (time.perf_counter() - started) / n_written, "prompt": rate}))


def measure(model: str, n_threads: int, n_tokens: int, rounds: str, busy: bool) -> dict[str, float]:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment["GOMP_SPINCOUNT"] = rounds
    with ExitStack() as stack:
        for _ in range(os.cpu_count() or 1) if busy else ():
            process = stack.enter_context(subprocess.Popen(SPIN))
            stack.callback(process.kill)
        done = subprocess.run(
            [sys.executable, __file__, model, "--worker", "--threads", str(n_threads), "--tokens", str(n_tokens)],
            stdout=subprocess.PIPE, text=True, check=True, env=environment, cwd=Path(__file__).parents[2],
        )  # fmt: skip
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", default="300000,10000,3000,1000,0", help="300000 is GCC's own choice")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args.model, args.threads, args.tokens)
    kinds = [(args.threads, rounds) for rounds in args.rounds.split(",")] + [(1, "0")]
    found: dict[tuple[int, str, bool], list[dict[str, float]]] = {}
    for _ in range(args.repeat):
        for busy in (False, True):
            for n_threads, rounds in kinds:
                one = measure(os.path.abspath(args.model), n_threads, args.tokens, rounds, busy)
                found.setdefault((n_threads, rounds, busy), []).append(one)
    print("threads   rounds  machine  ms a token (range)          prompt, tokens a second")
    for (n_threads, rounds, busy), all_of_it in found.items():
        ms, rate = ([one[name] for one in all_of_it] for name in ("ms", "prompt"))
        print(f"{n_threads:7} {rounds:>8}  {'busy' if busy else 'idle':7}  {statistics.median(ms):8.1f} "
              f"({min(ms):.1f} to {max(ms):.1f})  {statistics.median(rate):8.0f} ({min(rate):.0f} to {max(rate):.0f})")  # fmt: skip


if __name__ == "__main__":
    main()
