"""Perplexity of a text beside stock llama.cpp, with nothing evicted: ``.venv/bin/python docs/tools/compare_perplexity.py MODEL TEXT``.

Both sides read the same tokens in the same ubatches with cells of the same type. The stock libraries are those that
``RETAIN_STOCK_LIB_DIR`` names, or that ``python native/builder stock`` prints.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

SIDES = ("stock", "retain-local")
CELL_TYPES = {"f32": 0, "f16": 1}
N_UBATCH = 256


def read_tokens(path: str, model: object, n_tokens: int) -> list[int]:
    import llama_cpp

    text = Path(path).read_bytes()[: 16 * n_tokens]
    found = (llama_cpp.llama_token * len(text))()
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    n = llama_cpp.llama_tokenize(vocabulary, text, len(text), found, len(found), True, False)
    if n < n_tokens:
        sys.exit(f"{path} has {n} tokens in its first {len(text)} bytes; {n_tokens} are needed")
    return list(found[:n_tokens])


def negative_log_likelihoods(logits: np.ndarray, targets: list[int]) -> np.ndarray:
    """Return -log p of the targets, [n] in nats, of logits [n, vocabulary]."""
    rows = logits[: len(targets)].astype(np.float64)
    top = rows.max(axis=1)
    return top + np.log(np.exp(rows - top[:, None]).sum(axis=1)) - rows[np.arange(len(targets)), targets]


def measure(side: str, args: argparse.Namespace) -> dict[str, float]:
    """Read the text on one side; returns its mean negative log-likelihood in nats, and the number of tokens predicted."""
    if side == "retain-local":
        from retain_local.bindings import llama_cpp, retain_h
    else:
        import llama_cpp

    model = llama_cpp.llama_model_load_from_file(os.fsencode(args.model), llama_cpp.llama_model_default_params())
    if not model:
        sys.exit(f"{args.model}: llama.cpp cannot load it")
    tokens = read_tokens(args.text, model, args.tokens)

    params = llama_cpp.llama_context_default_params()
    params.n_ctx = -(-args.tokens // N_UBATCH) * N_UBATCH
    params.n_batch = params.n_ubatch = N_UBATCH
    params.n_threads = params.n_threads_batch = args.threads
    params.type_k = params.type_v = CELL_TYPES[args.cells]
    params.flash_attn_type = 1 if args.flash else 0
    params.swa_full = False
    if side == "retain-local":
        retention = retain_h.default_params()
        retention.budget, retention.policy = params.n_ctx, b"none"
        retain_h.check(retain_h.set_params(ctypes.byref(retention)))
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        sys.exit(f"{args.model}: no context could be made")

    n_vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    batch = llama_cpp.llama_batch_init(N_UBATCH, 0, 1)
    found = []
    for start in range(0, len(tokens), N_UBATCH):
        part = tokens[start : start + N_UBATCH]
        batch.n_tokens = len(part)
        for i, token in enumerate(part):
            batch.token[i], batch.pos[i], batch.logits[i] = token, start + i, 1
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        if llama_cpp.llama_decode(context, batch):
            sys.exit("llama.cpp could not compute a ubatch")
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), (len(part), n_vocabulary))
        found.append(negative_log_likelihoods(logits, tokens[start + 1 : start + 1 + len(part)]))
    every = np.concatenate(found)
    return {"mean": float(every.mean()), "tokens": len(every)}


def stock_directory() -> str:
    if named := os.environ.get("RETAIN_STOCK_LIB_DIR"):
        return named
    builder = Path(__file__).parents[2] / "native" / "builder"
    printed = subprocess.run([sys.executable, builder, "stock"], capture_output=True, text=True, check=True).stdout
    return printed.splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--tokens", type=int, default=8000)
    parser.add_argument("--cells", choices=CELL_TYPES, default="f32")
    parser.add_argument("--flash", action="store_true", help="stock with flash attention")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)  # what each of the two processes gets
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args.side, args)))
        return

    means = {}
    for side in SIDES:
        environment = dict(os.environ)
        if side == "stock":
            environment["LLAMA_CPP_LIB_PATH"] = stock_directory()
        command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr.strip().splitlines()[-1])
        result = json.loads(done.stdout.splitlines()[-1])
        means[side] = result["mean"]
        print(f"{side:<13} {result['tokens']:,} tokens, perplexity {np.exp(result['mean']):.5f}")
    print(f"difference    {np.exp(means['retain-local']) - np.exp(means['stock']):+.2e}")


if __name__ == "__main__":
    main()
