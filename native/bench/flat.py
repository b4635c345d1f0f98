"""Time a token at several depths in turn: beyond the budget it should cost the same at each.

    python native/bench/flat.py qwen3-0.6b-q4_0.gguf --depths 4096,32768 --budget 2048

Each depth has a process of its own, so that what slows the machine for a while slows all of them. Run it with the Python
that retain-local is installed for, on an idle machine.
"""

import argparse
import pathlib
from statistics import median

from retain_local.bench.side import Side
from retain_local.bindings import library
from retain_local.errors import RetainError
from retain_local.models.model_file import read_model_file

F16 = 1  # the ggml number


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, help="a GGUF with a sidecar beside it")
    parser.add_argument("--depths", default="4096,32768", help="the first is what the others are compared with")
    parser.add_argument("--budget", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=32, help="written each time")
    args = parser.parse_args()

    try:
        run(args)
    except RetainError as error:
        parser.error(str(error))


def run(args):
    parts = args.depths.split(",")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise RetainError(f"depths {args.depths!r} are not numbers of tokens, as in 4096,32768")
    depths = [int(part) for part in parts]
    gates = read_model_file(args.model).sidecar_path()
    if not gates.is_file():
        raise RetainError(f"{gates} is not there; native/bench/make_gates.py makes one")
    sides = [Side(f"depth {depth}", library.directory()) for depth in depths]
    try:
        for side, depth in zip(sides, depths):
            side.ask(
                "open", retention={"budget": args.budget, "gates": str(gates.absolute()), "policy": "gate"},
                model=str(args.model.absolute()), n_ctx=depth + args.repeat * args.tokens, n_ubatch=512,
                n_threads=args.threads, type_k=F16, type_v=F16, n_gpu_layers=0, seed=0,
            )  # fmt: skip
            side.ask("read", n=depth)
        times = [[] for _ in sides]
        for turn in range(args.repeat):
            for at in range(len(sides))[:: 1 if turn % 2 == 0 else -1]:
                times[at].append(sides[at].ask("write", n=args.tokens) / args.tokens)
    finally:
        for side in sides:
            side.close()
    for depth, seconds in zip(depths, times):
        ratios = sorted(here / first for here, first in zip(seconds, times[0]))
        quarter = len(ratios) // 4
        print(f"depth {depth:7,}: {1e3 * median(seconds):.2f} ms a token, {median(ratios):.3f} of the first"
              f" (half of the turns: {ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f})")  # fmt: skip


if __name__ == "__main__":
    main()
