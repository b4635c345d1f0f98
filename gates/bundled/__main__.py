"""Make the bundled model from a seed: ``python -m retain_local.gates.bundled --out DIR``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from . import evaluate, to_gguf, train_gates, train_model
from .tokenizer import load_or_train


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m retain_local.gates.bundled", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for bundled.gguf and bundled.gates.gguf")
    parser.add_argument("--work", type=Path, help="folder of the checkpoints [OUT/work]; run again to resume")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn at random")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--samples", type=int, default=25, help="documents to measure on, 8 questions each")
    args = parser.parse_args()

    work = args.work or args.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)

    tokenizer = load_or_train(work / "tokenizer.json", args.seed)
    model = train_model.train_model(tokenizer, work, args.seed, log=progress)
    gates = train_gates.train_gates(model, tokenizer, work, args.seed, log=progress)

    model_path, gates_path = args.out / "bundled.gguf", args.out / "bundled.gates.gguf"
    to_gguf.write_model(model_path, model, tokenizer, train_model.LENGTHS[-1])
    to_gguf.write_gates(gates_path, gates, model_path, train_gates.BUDGET, max(train_gates.LENGTHS))
    progress(f"wrote {model_path} and {gates_path}")
    progress(evaluate.table(model, gates, tokenizer, args.samples))


def progress(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
