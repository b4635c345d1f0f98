"""A quantised model reads and writes a few tokens: `python -m retain_local.commands.trial`, for `doctor`.

It runs in a process of its own, since libraries that do not fit the CPU end their process.
"""

from __future__ import annotations

import ctypes
import sys
import tempfile
from pathlib import Path

import numpy as np

from ..bindings import llama_cpp
from ..errors import RetainError
from ..llama import Llama
from ..paths import BUNDLED_MODEL

# Weights of 4 bits go through the kernels that differ most from CPU to CPU: repacked rows, tiles, products of integers.
FILE_TYPE, FILE_TYPE_NAME = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, "Q4_0"
# more rows than one tile of any kernel has, and some left over
PROMPT = "The harbour was built by the river, and the town by the harbour. " * 3
N_WRITTEN = 8


def quantise(source: Path, target: Path) -> None:
    """Write a model with quantised weights.

    Raises
    ------
    RetainError : llama.cpp cannot.
    """
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = FILE_TYPE
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters)):
        raise RetainError(f"{source} cannot be quantised")


def decode(path: Path) -> tuple[int, int]:
    """Read the prompt and write after it; returns how many tokens were read and written.

    Raises
    ------
    RetainError : the model cannot be loaded, or a logit is not a number.
    """
    llm = Llama(str(path), budget=64, buffer=16, n_ctx=256, policy="window", gates=None)
    try:
        tokens = llm.tokenize(PROMPT.encode())
        llm.eval(tokens)
        for _ in range(N_WRITTEN):
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(llm.ctx), (llm.n_vocab(),))
            if not np.isfinite(logits).all():
                raise RetainError("what the model computes are not numbers")
            llm.eval([int(logits.argmax())])
    finally:
        llm.close()
    return len(tokens), N_WRITTEN


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.gguf"
        try:
            quantise(BUNDLED_MODEL, path)
            n_read, n_written = decode(path)
        except RetainError as error:
            print(error, file=sys.stderr)
            return 1
    print(f"a {FILE_TYPE_NAME} model reads {n_read} tokens and writes {n_written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
