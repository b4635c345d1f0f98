"""Sessions with a retention memory. Importing this loads the patched libraries."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from retain_local.bindings import retain_h
from support.llama_session import Model, Session
from support.reference import SCOPES, Cache, Options


class RetainedSession(Session):
    """A context with a retention memory.

    Parameters
    ----------
    model : the model.
    retain : fields of `retain_params`.
    context : as `Session`.
    """

    def __init__(self, model: Model, retain: dict[str, Any], **context: Any) -> None:
        retain_h.check(retain_h.set_params(params_from(retain)))
        try:
            super().__init__(model, **context)
        except RuntimeError as error:
            raise RuntimeError(f"{error}; {retain_h.error_text()}") from None
        finally:
            retain_h.set_params(None)

    def stats(self) -> retain_h.RetainStats:
        stats = retain_h.RetainStats()
        retain_h.check(retain_h.get_stats(self.handle, stats))
        return stats

    def n_cells(self, seq_id: int = 0) -> int:
        return retain_h.check(retain_h.n_cells(self.handle, seq_id))

    def cell_list(self, il: int, head: int, seq_id: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Positions and log betas of a stream, in order of the tokens: [n] int32, [n] float32."""
        pos, _, log_beta = self.cells(il, head, seq_id)
        return pos, log_beta

    def cells(self, il: int, head: int, seq_id: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions, ordinals and log betas of a stream, in order of the tokens: [n] int32, [n] int32, [n] float32."""
        n = retain_h.check(retain_h.get_cells(self.handle, seq_id, il, head, None, None, None, 0))
        pos, ordinal, log_beta = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.float32)
        retain_h.check(
            retain_h.get_cells(
                self.handle,
                seq_id,
                il,
                head,
                pos.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
                ordinal.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
                log_beta.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
                n,
            )
        )
        order = np.argsort(ordinal)
        return pos[order], ordinal[order], log_beta[order]

    def pin(self, p0: int, p1: int, seq_id: int = 0) -> None:
        retain_h.check(retain_h.pin(self.handle, seq_id, p0, p1))

    def unpin(self, p0: int, p1: int, seq_id: int = 0) -> None:
        retain_h.check(retain_h.unpin(self.handle, seq_id, p0, p1))

    def set_budget(self, budget: int, seq_id: int = 0) -> None:
        retain_h.check(retain_h.set_budget(self.handle, seq_id, budget))

    def rollback_limit(self, seq_id: int = 0) -> int:
        return retain_h.check(retain_h.rollback_limit(self.handle, seq_id))

    def hold(self, hold: bool, seq_id: int = 0) -> None:
        retain_h.check(retain_h.hold(self.handle, seq_id, hold))

    def set_callback(self, score: Callable[..., np.ndarray | None]) -> None:
        """Install a scoring function of (seq_id, n_seen, layer, head, pos, log_beta, age), arrays [n_cells].

        It returns the scores, or None to leave them to the policy. What it raises is kept and fails `close`.
        """
        self._score, self._callback_errors = score, []
        self._callback = retain_h.ScoreCallback(self._call)
        retain_h.check(retain_h.set_callback(self.handle, self._callback, None))

    def _call(self, _, seq_id, n_seen, n, layer, head, pos, log_beta, age, scores) -> bool:
        try:
            cells = [np.ctypeslib.as_array(array, (n,)) for array in (layer, head, pos, log_beta, age)]
            result = self._score(seq_id, n_seen, *cells)
            if result is not None:
                np.ctypeslib.as_array(scores, (n,))[:] = result
            return result is not None
        except Exception as error:  # ctypes would only print it
            self._callback_errors.append(error)
            return False

    def close(self) -> None:
        super().close()
        for error in getattr(self, "_callback_errors", []):
            raise error


def params_from(retain: dict[str, Any]) -> retain_h.RetainParams:
    """`retain_params` with the defaults and the given fields."""
    params = retain_h.default_params()
    for name, value in retain.items():
        setattr(params, name, str(value).encode() if name in ("policy", "gates") else value)
    return params


def retain_fields(options: Options) -> dict[str, Any]:
    """The `retain_params` fields of a reference cache's options."""
    fields = asdict(options)
    for name in ("n_ubatch", "is_static", "window"):  # of the context and the gates
        del fields[name]
    fields["scope"] = SCOPES.index(options.scope)
    return fields


def assert_same_cells(session: RetainedSession, cache: Cache, seq_id: int = 0) -> None:
    """Every stream holds exactly the reference's cells: their positions, ordinals and log betas."""
    for il in range(cache.n_layer):
        for head in range(cache.n_head_kv):
            where = f"sequence {seq_id}, layer {il}, head {head}, {cache.n_seen} tokens seen"
            for found, expected in zip(session.cells(il, head, seq_id), cache.cells(il, head)):
                np.testing.assert_array_equal(found, expected, err_msg=where)
    assert session.n_cells(seq_id) == cache.n_cells
