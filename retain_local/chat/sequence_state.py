"""The cache of a conversation as bytes."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..bindings import retain_h
from ..errors import RetainError
from ..files import opened
from ..kv_types import kv_type
from ..options.archive import share_text, size_text
from ..retention.retention import SEQUENCE
from ..vision.layout import Layout

if TYPE_CHECKING:
    from ..llama import Llama


def describe_cache(llm: Llama) -> dict[str, str]:
    """What a cache must have in common with another one to take its cells.

    Raises
    ------
    RetainError : the gates cannot be read.
    """
    gates = "none"
    if llm.options.gates is not None:
        with opened(llm.options.gates) as file:
            gates = hashlib.sha256(file.read()).hexdigest()[:16]
    return {
        "K type": kv_type(llm.context_params.type_k).name,
        "V type": kv_type(llm.context_params.type_v).name,
        "gates": gates,
    }


def describe_archive(llm: Llama) -> dict[str, str]:
    """How a cache keeps what it evicted, as options; nothing where its archive is empty."""
    options = llm.options
    if not llm.retention.stats().cells_archived:
        return {}
    assert isinstance(options.archive, int)
    return {
        "archive": size_text(options.archive),
        "archive type": options.archive_type,
        "recall": share_text(options.recall_share),
    }


def lacks_archive(llm: Llama) -> bool:
    """Whether an archive was asked for, and the cache has none, as its budget covered the context when it was made."""
    options = llm.options
    return bool(options.recall_share) and options.policy != "none" and not llm.retention.stats().bytes_archive


def save_sequence(llm: Llama) -> bytes:
    """The cells of the conversation in the cache.

    Raises
    ------
    RetainError : the native library cannot save them.
    """
    from llama_cpp import llama_cpp as bindings

    with llm._usage.step():
        data = (ctypes.c_uint8 * bindings.llama_state_seq_get_size(llm.ctx, SEQUENCE))()
        size = bindings.llama_state_seq_get_data(llm.ctx, data, len(data), SEQUENCE)
    if not size:
        raise RetainError(f"the cache cannot be saved: {retain_h.error_text() or 'llama.cpp gave no reason'}")
    return bytes(memoryview(data)[:size])


def restore_sequence(
    llm: Llama, data: bytes, tokens: Sequence[int], pins: Sequence[tuple[int, int]] | None = None
) -> None:
    """Put saved cells in place of those in the cache.

    Parameters
    ----------
    data : from `save_sequence`.
    tokens : the tokens that the cells are of.
    pins : ranges of positions to pin in place of those that are pinned; None leaves the pins to the caller.

    Raises
    ------
    RetainError : the tokens do not fit the context or are not of this vocabulary, the native library refuses the
        cells, they are those of fewer tokens, or the pins do not fit the budget. All is then as it was.
    """
    check_tokens(llm, tokens)
    retention = llm.retention
    pictures = llm._layout.pictures  # held for the way back
    before = save_sequence(llm), llm.input_ids[: llm.n_tokens].tolist(), retention.own_pins, retention.system_pin
    _put(llm, data)
    try:
        if llm._last_position() < Layout.of(tokens, llm.pictures).last_position(
            len(tokens)
        ):  # more are what an interrupted reading left, and are taken out
            raise RetainError(f"its cache holds less than its {len(tokens):,} tokens")
        llm.adopt_tokens(tokens)
        if pins is not None:
            retention.take_over_pins(pins)
            retention._apply_pins(restarted=False)
    except RetainError:
        cells, read, own_pins, system_pin = before
        _put(llm, cells)
        llm.adopt_tokens(read)
        retention.take_over_pins(own_pins, system_pin)
        raise
    finally:
        del pictures


def check_tokens(llm: Llama, tokens: Sequence[int]) -> None:
    """Raise RetainError for tokens that do not fit the context, or are neither of this vocabulary nor pictures of it."""
    if len(tokens) > llm.n_ctx():
        raise RetainError(
            f"it holds {len(tokens):,} tokens, and the context {llm.n_ctx():,}; use a longer one (--ctx, or /ctx in a chat)"
        )
    if not all(token < llm.n_vocab() for token in tokens):
        raise RetainError("it holds tokens that the model does not have")
    try:
        Layout.of(tokens, llm.pictures)
    except RetainError:
        raise RetainError("its pictures were read by another projector, or are not in it") from None


def _put(llm: Llama, data: bytes) -> None:
    from llama_cpp import llama_cpp as bindings

    retain_h.clear_error()
    buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
    with llm._usage.turn(), llm._usage.step():
        llm._usage.changes += 1
        if not bindings.llama_state_seq_set_data(llm.ctx, buffer, len(data), SEQUENCE):
            raise RetainError(f"its cache is refused: {retain_h.error_text() or 'it does not fit'}")
