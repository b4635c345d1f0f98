"""Making contexts with a retention cache."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..kv_types import kv_type
from . import retain_h

if TYPE_CHECKING:
    from ..options.retention_options import RetentionOptions

_SCOPES = {"global": retain_h.SCOPE_GLOBAL, "layer": retain_h.SCOPE_LAYER, "head": retain_h.SCOPE_HEAD}


@contextmanager
def aborts_as_errors() -> Iterator[None]:
    """A model or context that llama.cpp would end the process for is one that it refuses; for making these alone."""
    retain_h.guard_aborts(True)
    try:
        yield
    finally:
        retain_h.guard_aborts(False)


@contextmanager
def armed(options: RetentionOptions) -> Iterator[None]:
    """Every context that this thread makes in the block has a retention cache."""
    params = retain_h.default_params()
    params.budget, params.buffer, params.lookahead = options.budget, options.buffer, options.lookahead
    params.n_sink, params.n_recent, params.min_per_head = options.sinks, options.recent, options.min_per_head
    params.prefill = retain_h.PREFILL_FULL if options.prefill == "full" else retain_h.PREFILL_BOUNDED
    params.scope = _SCOPES[options.scope]
    params.seed = options.policy_seed
    params.policy = options.policy.encode()
    params.gates = os.fsencode(options.gates) if options.gates is not None else None
    if options.archive:
        params.recall, params.archive_bytes = options.recall_share, options.archive
        params.archive_type = kv_type(options.archive_type).ggml
        params.archive_file = os.fsencode(options.archive_file) if options.archive_file is not None else None
    retain_h.check(retain_h.set_params(ctypes.byref(params)))
    try:
        yield
    finally:
        retain_h.set_params(None)
