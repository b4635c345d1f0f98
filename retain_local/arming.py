"""Making contexts with a retention cache."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

from . import native
from .options import RetentionOptions


_SCOPES = {"global": native.SCOPE_GLOBAL, "layer": native.SCOPE_LAYER, "head": native.SCOPE_HEAD}


@contextmanager
def armed(options: RetentionOptions) -> Iterator[None]:
    """Every context that this thread makes in the block has a retention cache."""
    params = native.default_params()
    params.budget, params.buffer, params.lookahead = options.budget, options.buffer, options.lookahead
    params.n_sink, params.n_recent, params.min_per_head = options.sinks, options.recent, options.min_per_head
    params.prefill = native.PREFILL_FULL if options.prefill == "full" else native.PREFILL_BOUNDED
    params.scope = _SCOPES[options.scope]
    params.seed = options.policy_seed
    params.policy = options.policy.encode()
    params.gates = os.fsencode(options.gates) if options.gates is not None else None
    native.check(native.set_params(ctypes.byref(params)))
    try:
        yield
    finally:
        native.set_params(None)
