"""Make the bundled model and its gates from a seed: ``python -m retain_local.gates.bundled --out DIR``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from . import pipeline


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m retain_local.gates.bundled", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for all that is made; run again to resume")
    parser.add_argument("--text", type=Path, help="plain UTF-8 text, for fluency")
    parser.add_argument(
        "--ablations", action="store_true", help="also train the gates that docs/results.md compares with"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn at random")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    text = args.text.read_text(encoding="utf-8") if args.text else ""
    if not (args.out / "bundled.gguf").exists():
        pipeline.make_base(args.out, text, args.seed)
    pipeline.release(args.out, pipeline.make_gates(args.out, "global", pipeline.GATES))
    if args.ablations:
        for name, options in pipeline.ABLATIONS.items():
            pipeline.make_gates(args.out, name, options)


if __name__ == "__main__":
    main()
