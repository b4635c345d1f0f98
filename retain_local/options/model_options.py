"""How a model is loaded and run, besides its cache."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..errors import UsageError
from ..kv_types import KV_TYPES
from .table import check, option

_CACHE, _MACHINE, _CHAT = "Cache", "Machine", "Chat"
_BATCH = 512  # tokens
_TYPES = f"{', '.join(list(KV_TYPES)[:-1])} or {list(KV_TYPES)[-1]}"


@dataclass(frozen=True)
class ModelOptions:
    """Arguments of `Llama` that the command line has as well; each field's `Option` says what it is.

    `type_k` and `type_v` may also be numbers of ggml, and None, which is f16.
    """

    type_k: str | int | None = option("f16", f"The type that K is stored in: {_TYPES}.", _CACHE, str, rare=True)
    type_v: str | int | None = option("f16", "The type that V is stored in: one of the same.", _CACHE, str, rare=True)
    n_ctx: int = option(
        0, "The context in tokens; 0 is what the model was trained for.", _MACHINE, int, most=2**31 - 1, flag="ctx"
    )
    rope_freq_base: float = option(
        0.0,
        "The base frequency of RoPE; 0 is the model's own. With a higher one a model can read further than it was trained to.",
        _MACHINE,
        float,
        least=0,
        rare=True,
    )
    n_threads: int | None = option(
        None,
        "How many CPU threads to use.",
        _MACHINE,
        int,
        least=1,
        most=2**16,
        flag="threads",
        unset="half of the CPUs for decode, all for prefill",
    )
    n_batch: int | None = option(
        None,
        "How many tokens are handed to llama.cpp at once.",
        _MACHINE,
        int,
        least=1,
        flag="batch",
        unset="512, or the ubatch if that is larger",
        rare=True,
    )
    n_gpu_layers: int = option(
        0,
        "How many layers to put on the GPU; -1 is all of them.",
        _MACHINE,
        int,
        least=-1,
        most=2**31 - 1,
        flag="gpu-layers",
        short="ngl",
        rare=True,
    )
    mmproj: str | os.PathLike[str] | None = option(
        None,
        "The projector that reads pictures for the model.",
        _MACHINE,
        str,
        unset="mmproj*.gguf beside the model, when a picture is given",
        rare=True,
    )
    verbose: bool = option(False, "Show what llama.cpp logs.", _MACHINE, bool, rare=True)
    control_tokens_in_messages: bool = option(
        False,
        "Let control tokens such as <|im_end|> work in messages too; otherwise they are plain text there.",
        _CHAT,
        bool,
        rare=True,
    )

    def __post_init__(self) -> None:
        check(self)

    def batch_of(self, n_ubatch: int) -> int:
        """Tokens of a batch whose ubatch is given; 0 where that is not decided yet.

        Raises
        ------
        UsageError : the ubatch is larger than its batch.
        """
        n_batch = self.n_batch or max(_BATCH, n_ubatch)
        if n_ubatch > n_batch:
            raise UsageError(f"ubatch is {n_ubatch}, more than the batch of {n_batch} tokens that it is a part of")
        return n_batch
