"""From options to the command line of the server's program."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import UsageError
from ..kv_types import KVType, kv_type
from ..models.model_file import ModelFile, read_model_file
from ..options.budget import Budget
from ..options.retention_options import RetentionOptions, pool_bytes_of
from .options import ServeOptions

PAGE = Path(__file__).parent / "page"

_CHECKPOINTS = 3  # states of a slot to go back to; each is as large as its budget
_CHECKPOINTS_WITH_ARCHIVE = 1  # which each of them holds too
_CHECKPOINT_STEPS = 4  # in a budget; closer ones would be made while a prompt of short messages is read
_BATCH = 2048  # tokens, llama.cpp's own default

_POSITIONS = "cells keep their positions when others are evicted, so there is nothing to shift"
_STOCK = "embeddings have no cache to keep in a budget; use llama.cpp's own server for them"
_LOG = "the log says when the server listens, and why it ended"
_ROUTER = "this server runs the one model that it is given"

# what of llama.cpp's options cannot be passed on, and why
_REFUSED = {
    "--context-shift": f"a context shift is not needed: {_POSITIONS}",
    "--cache-reuse": f"chunks cannot be reused by shifting: {_POSITIONS}",
    **dict.fromkeys(("--embedding", "--embeddings", "--rerank", "--reranking", "--pooling"), _STOCK),
    **dict.fromkeys(("--models-dir", "--models-preset", "--models-max"), _ROUTER),
    **dict.fromkeys(("-m", "--model"), "the model is named before the options"),
    **dict.fromkeys(("-hf", "-hfr", "--hf-repo", "-mu", "--model-url"), "name the model as OWNER/REPO[:QUANT] instead"),
    **dict.fromkeys(("-np", "--n-parallel"), "use --parallel"),
    **dict.fromkeys(("-c",), "use --ctx-size"),
    **dict.fromkeys(("-ub", "--ubatch-size"), "use --ubatch"),
    **dict.fromkeys(("-lv", "--verbosity", "--log-verbosity"), f"{_LOG}; --verbose shows all of it"),
    **dict.fromkeys(("--log-disable", "--log-jsonl"), _LOG),
    "--api-key-file": "use --api-key, or the environment variable LLAMA_API_KEY",
}
_VALUES = {
    "type_k": ("-ctk", "--cache-type-k"),
    "type_v": ("-ctv", "--cache-type-v"),
    "batch": ("-b", "--batch-size"),
    "prefix": ("--api-prefix",),
}


@dataclass(frozen=True)
class ServerCommand:
    """A server to start: its arguments, and what they come to.

    arguments : behind the program's name.
    retention : the options as resolved, of each slot.
    n_ctx : tokens of the longest conversation.
    pool_bytes : bytes of K and V that all slots together never exceed, besides windows and states of a mixed model.
    prefix : that the paths of all requests begin with.
    """

    arguments: tuple[str, ...]
    retention: RetentionOptions
    serve: ServeOptions
    model: ModelFile
    n_ctx: int
    pool_bytes: int
    prefix: str = ""


def server_command(
    model: str | os.PathLike[str], retention: RetentionOptions, serve: ServeOptions, more: Sequence[str] = ()
) -> ServerCommand:
    """The command line for a model.

    Parameters
    ----------
    model : a GGUF file.
    more : options of llama.cpp's server.

    Raises
    ------
    UsageError : an option that cannot be passed on, or one that does not fit the others.
    RetainError : the model or its gates cannot be used.
    """
    check_passed_on(more)
    file = read_model_file(model)
    n_ctx = serve.ctx_size or file.n_ctx_train
    if not n_ctx:
        raise UsageError(f"{model} does not say for which context it was trained; name one with --ctx-size")
    types = _kv_type(more, "type_k"), _kv_type(more, "type_v")
    options = _of_a_slot(retention, serve.parallel).resolve(
        file, n_ctx=n_ctx, type_k=types[0], type_v=types[1], n_batch=_whole(more, "batch") or _BATCH
    )
    if options.prefill == "full":
        raise UsageError("prefill full needs the memory of a whole prompt, and a server bounds it; use bounded")
    assert isinstance(options.budget, int) and options.buffer is not None and options.n_ubatch is not None
    n_checkpoints = _CHECKPOINTS_WITH_ARCHIVE if options.recall_share else _CHECKPOINTS
    arguments = [
        *_retention_arguments(options, file),
        *("--model", os.fspath(file.path), "--alias", file.stem),
        *("--host", serve.host, "--port", str(serve.port)),
        *("--ctx-size", str(n_ctx), "--parallel", str(serve.parallel), "--kv-unified"),
        *("--ubatch-size", str(options.n_ubatch)),
        *("--no-context-shift", "--no-cache-idle-slots", "--ctx-checkpoints", str(n_checkpoints)),
        *("--checkpoint-min-step", str(max(1, options.budget // _CHECKPOINT_STEPS))),
        *("--fit", "off", "--cors-origins", "localhost", "--metrics", "--path", str(PAGE)),
    ]
    if n_ctx > file.n_ctx_train:  # or the server would not read further
        arguments += ["--override-kv", f"{file.architecture}.context_length=int:{n_ctx}"]
    room = options.residents(options.budget, n_ctx) + max(options.buffer, options.n_ubatch)
    room = n_ctx if options.budget >= n_ctx else room
    pool_bytes = serve.parallel * room * pool_bytes_of(file, *types)
    prefix = _value(more, "prefix") or ""
    return ServerCommand((*arguments, *more), options, serve, file, n_ctx, pool_bytes, prefix)


def check_passed_on(more: Sequence[str]) -> None:
    """Raise UsageError for what cannot be passed on to llama.cpp's server, with the reason."""
    for word in more:
        if reason := _REFUSED.get(word.partition("=")[0]):
            raise UsageError(f"{word}: {reason}")


def _of_a_slot(retention: RetentionOptions, n_slots: int) -> RetentionOptions:
    """The options of one slot: a size in bytes is that of all of them together."""
    budget = retention.budget
    if not isinstance(budget, str) or budget == "auto" or not (size := Budget.parse(budget, sizes=True).size):
        return retention
    return replace(retention, budget=f"{size // n_slots}B")


def _retention_arguments(options: RetentionOptions, file: ModelFile) -> list[str]:
    named: dict[str, object] = {
        "budget": options.budget,
        "buffer": options.buffer,
        "policy": options.policy,
        "scope": options.scope,
        "seed": options.policy_seed,
        "sinks": options.sinks,
        "recent": options.recent,
        "min-per-head": options.min_per_head,
        "lookahead": options.lookahead,
        "pin-system": "on" if options.pin_system else "off",
        "trained-context": file.n_ctx_train,
    }
    if options.recall_share:
        named |= {
            "recall": options.recall_share,
            "archive": options.archive,
            "archive-type": options.archive_type,
        }
        if options.archive_file is not None:
            named["archive-file"] = os.fspath(options.archive_file)
    if options.gates is not None:
        named["gates"] = os.fspath(options.gates)
    return [word for name, value in named.items() for word in (f"--retain-{name}", str(value))]


def _value(more: Sequence[str], name: str) -> str | None:
    """The value of an option that is passed on, where it is needed here too."""
    found = None
    for word, following in zip(more, [*more[1:], None]):
        if word in _VALUES[name]:
            found = following
    return found


def _kv_type(more: Sequence[str], name: str) -> KVType:
    return kv_type(_value(more, name))


def _whole(more: Sequence[str], name: str) -> int | None:
    value = _value(more, name)
    if value is None:
        return None
    if not value.isdecimal() or not int(value):
        raise UsageError(f"{_VALUES[name][1]} is {value}; it must be a whole number of at least 1")
    return int(value)
