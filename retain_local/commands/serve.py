"""`retain-local serve`: a server for the clients of the OpenAI and Anthropic APIs."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
from collections.abc import Sequence
from typing import Any

from ..errors import RetainError
from ..options.retention_options import RetentionOptions
from ..server.arguments import check_passed_on
from ..server.options import ServeOptions
from ..server.process import KEY_VARIABLE, Server, unread_variables
from ..terminal.byte_format import format_bytes
from .loading import gates_to_load, usual_threads
from .model_name import find_model

logger = logging.getLogger("retain_local")

_OWN_LINES = "retention:"  # what the server logs of the cache


def run_serve(model: str, cache: RetentionOptions, serve: ServeOptions, verbose: bool, more: Sequence[str]) -> int:
    """Serve a model until the program is asked to end; returns the exit status.

    Parameters
    ----------
    more : options of llama.cpp's server.

    Raises
    ------
    RetainError : the model cannot be found or fetched, or the server not be built or started, or it ended by itself.
    """
    check_passed_on(more)
    if unread := unread_variables():
        logger.warning("not read from the environment: %s; name the options behind `serve` instead", ", ".join(unread))
    path, fetched_gates = find_model(model)
    threads = usual_threads(path)
    if threads is not None and not {"-t", "--threads"} & set(more):
        more = [*more, "--threads", str(threads)]
    options = vars(cache) | vars(serve) | {"gates": gates_to_load(cache, fetched_gates)}
    server = Server(path, arguments=more, log=_show_all if verbose else _show_own, **options)

    is_asked_to_end = False

    def end(*_: Any) -> None:
        nonlocal is_asked_to_end
        is_asked_to_end = True
        server.terminate()

    before = signal.signal(signal.SIGTERM, end)
    try:
        with server:
            for line in _greeting(server):
                logger.info(line)
            print(server.url, flush=True)
            status = server.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    if status and not is_asked_to_end:
        raise RetainError(f"the server ended: {server.reason()}")
    return 0


def _greeting(server: Server) -> list[str]:
    """What is served, and what is open to whom."""
    command, serve = server.command, server.command.serve
    options, model = command.retention, command.model
    assert isinstance(options.budget, int)
    slots = "1 slot" if serve.parallel == 1 else f"{serve.parallel} slots"
    each = "" if serve.parallel == 1 else " each"
    besides = " besides its layers of fixed size" if model.is_mixed else ""
    lines = [
        f"{model.name or model.stem}: {slots} with {options.budget:,} cells per layer and KV head{each} by the policy "
        f"{options.policy}, for conversations of up to {command.n_ctx:,} tokens; "
        f"{format_bytes(command.pool_bytes)} of KV cache in all{besides}{_archive(options)}"
    ]
    if model.n_ctx_train and command.n_ctx > model.n_ctx_train:
        lines.append(
            f"the model was trained for {model.n_ctx_train:,} tokens: replies may be poor from there on, and say so "
            "(beyond_trained_context)"
        )
    has_key = serve.api_key or os.environ.get(KEY_VARIABLE)
    key = "with the key that you chose" if has_key else "without a key (--api-key asks for one)"
    whom = "every program on this machine" if _is_loopback(serve.host) else f"everyone who can reach {serve.host}"
    lines.append(f"open to {whom}, {key}; to web pages only of this machine")
    return lines


def _archive(options: RetentionOptions) -> str:
    if not options.recall_share:
        return ""
    assert isinstance(options.archive, int)
    return f", and an archive of up to {format_bytes(options.archive)} for evicted cells"


def _is_loopback(host: str) -> bool:
    if host.endswith(".sock"):
        return True
    try:
        return all(ipaddress.ip_address(one.strip()).is_loopback for one in host.split(","))
    except ValueError:
        return host == "localhost"


def _show_all(line: str) -> None:
    logger.info(line)


def _show_own(line: str) -> None:
    if (found := line.find(_OWN_LINES)) >= 0:
        logger.warning(line[found + len(_OWN_LINES) :].strip())
