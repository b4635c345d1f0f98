"""Damaged and made-up models: each is loaded or refused with one error, and none ends the process.

What is a GGUF and what is none is decided as ggml does. A model that was loaded reads a token, and tokenizes a text.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fuzz.gguf_mutations import mutate_gguf
from fuzz.run import main
from retain_local import Llama, RetainError
from retain_local.models.gguf_header import GateFileError, read_header
from retain_local.paths import BUNDLED_MODEL
from support.gguf_file import parse
from support.native_gguf import ggml_reads
from support.tiny_models import TINY_MODELS, write_tiny_model

SIZES = {"n_ctx": 32, "n_batch": 32, "n_ubatch": 32, "n_threads": 1, "budget": 32, "policy": "window"}


class ModelFuzzer:
    """Tiny models of every architecture of the tests, and the bundled one."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "changed.gguf"
        wholes = [write_tiny_model(folder / f"{name}.gguf", model) for name, model in TINY_MODELS.items()]
        self.files = [parse(path.read_bytes()) for path in [*wholes, BUNDLED_MODEL]]

    def case(self, rng: np.random.Generator) -> None:
        self.path.write_bytes(mutate_gguf(rng, self.files[rng.integers(len(self.files))]))
        refused = None
        try:
            read_header(self.path)
        except GateFileError as error:
            refused = error
        assert (refused is None) == ggml_reads(self.path), f"the header was {refused or 'taken'}; ggml differs"
        try:
            llm = Llama(self.path, **SIZES)
        except RetainError as error:
            assert len(str(error).splitlines()) == 1
            return
        try:
            llm.eval([min(5, llm.n_vocab() - 1)])
            llm.tokenize(b"Hello, world\n")
        except RetainError:
            pass
        finally:
            llm.close()


if __name__ == "__main__":
    main(ModelFuzzer)
