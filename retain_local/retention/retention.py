"""`Retention`: the cache of one model, to read and to steer while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import POINTER, c_float, c_int32, c_uint32
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bindings import retain_h
from ..bindings.usage import Usage, in_step
from ..errors import RetainError, UsageError
from ..options.table import whole_number
from .stats import ArchivedCells, PinnedRange, RetentionStats, Steering

_INT = 2**31 - 1

SEQUENCE = 0  # the bindings run one sequence

# (layer, head, pos, log_beta, age) -> scores, all of shape [n_cells]; None leaves them to the policy
Scorer = Callable[
    [
        npt.NDArray[np.int32],
        npt.NDArray[np.int32],
        npt.NDArray[np.int32],
        npt.NDArray[np.float32],
        npt.NDArray[np.int32],
    ],
    npt.ArrayLike | None,
]


class Retention:
    """The cache of one `Llama`, as its `.retention`.

    Every method raises RetainError when the model was closed, and when the native library refuses. They may be called
    from any thread, and wait while native code runs in another one.

    Parameters
    ----------
    ctx : the `llama_context *`; None: without a cache.
    usage : of the model; None: one of its own.
    """

    def __init__(self, ctx: int | None, usage: Usage | None = None) -> None:
        self._open_ctx = ctx
        self._usage = usage or Usage()
        self._pins: list[PinnedRange] = []
        self._system = PinnedRange(0, 0)
        self._pins_applied = True
        self._callback: Any = None
        self._scorer_error: BaseException | None = None

    @property
    def _ctx(self) -> int:
        if self._open_ctx is None:
            raise RetainError("the model is closed")
        return self._open_ctx

    def _close(self) -> None:
        self._open_ctx = None

    # reading

    @in_step
    def stats(self) -> RetentionStats:
        """Counts, bytes and seconds of the cache as it is now."""
        raw = retain_h.RetainStats()
        retain_h.check(retain_h.get_stats(self._ctx, raw))
        return RetentionStats(
            tokens_seen=raw.n_seen,
            cells_seen=raw.n_seen * raw.n_cell_lists,
            cells_kept=raw.n_cells,
            cells_peak=raw.n_cells_peak,
            cells_limit=raw.n_cells_max,
            cells_evicted=raw.n_evicted,
            cells_moved=raw.n_moved,
            evictions=raw.n_evictions,
            cell_lists=raw.n_cell_lists,
            budget=raw.budget,
            page_size=raw.page_size,
            pages=raw.n_pages,
            pages_used=raw.n_pages_used,
            bytes_pool=raw.bytes_pool,
            device=retain_h.cells_device(self._ctx).decode(errors="replace"),
            bytes_used=raw.bytes_used,
            bytes_cell=raw.bytes_cell,
            bytes_full=raw.bytes_full,
            bytes_fixed=raw.bytes_fixed,
            select_seconds=raw.t_select_s,
            move_seconds=raw.t_move_s,
            input_seconds=raw.t_input_s,
            recall=raw.recall,
            residents=raw.residents,
            cells_archived=raw.n_archived,
            cells_archived_limit=raw.n_archived_max,
            cells_dropped=raw.n_dropped,
            bytes_archive=raw.bytes_archive,
            bytes_archived=raw.bytes_archived,
            archive_seconds=raw.t_archive_s,
        )

    @property
    @in_step
    def layers(self) -> tuple[int, ...]:
        """Indices of the layers whose cells are in the pool: not those with a sliding window, and not recurrent ones."""
        n = retain_h.check(retain_h.layers(self._ctx, None, 0))
        found = (c_int32 * n)()
        retain_h.check(retain_h.layers(self._ctx, found, n))
        return tuple(found)

    @in_step
    def heads(self, layer: int) -> int:
        """KV heads of a layer."""
        n = retain_h.n_head_kv(self._ctx, layer)
        if n < 0:
            raise UsageError(f"layer {layer} has no cells in the pool; the layers that have are {_ranges(self.layers)}")
        return n

    def positions(self, layer: int, head: int) -> npt.NDArray[np.int32]:
        """Positions of the cells of a layer and KV head, int32 [n_cells], in the order of their list (not sorted)."""
        return self._cells(layer, head)[0]

    def ordinals(self, layer: int, head: int) -> npt.NDArray[np.int32]:
        """How many tokens of the text came before that of each cell, int32 [n_cells], in the order of `positions`.

        For text they are the positions; the tokens of a picture may share one.
        """
        return self._cells(layer, head)[1]

    def log_beta(self, layer: int, head: int) -> npt.NDArray[np.float32]:
        """log β of the cells of a layer and KV head, float32 [n_cells], in the order of `positions`; 0 without gates.

        Of static gates (`has_static_gates`) it is the score itself.
        """
        return self._cells(layer, head)[2]

    @in_step
    def _cells(
        self, layer: int, head: int
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Positions, ordinals and log β."""
        self._check_head(layer, head)
        n = retain_h.check(retain_h.get_cells(self._ctx, SEQUENCE, layer, head, None, None, None, 0))
        pos, ordinals, log_beta = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.float32)
        retain_h.check(
            retain_h.get_cells(
                self._ctx,
                SEQUENCE,
                layer,
                head,
                pos.ctypes.data_as(POINTER(c_int32)),
                ordinals.ctypes.data_as(POINTER(c_int32)),
                log_beta.ctypes.data_as(POINTER(c_float)),
                n,
            )
        )
        return pos, ordinals, log_beta

    @in_step
    def archived(self, layer: int, head: int) -> ArchivedCells:
        """The archived cells of a layer and KV head; none without an archive."""
        self._check_head(layer, head)
        n = retain_h.check(retain_h.get_archived(self._ctx, SEQUENCE, layer, head, None, None, None, None, 0))
        found = ArchivedCells(
            np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.float32), np.empty(n, np.uint32)
        )
        retain_h.check(
            retain_h.get_archived(
                self._ctx,
                SEQUENCE,
                layer,
                head,
                found.positions.ctypes.data_as(POINTER(c_int32)),
                found.ordinals.ctypes.data_as(POINTER(c_int32)),
                found.log_beta.ctypes.data_as(POINTER(c_float)),
                found.n_recalled.ctypes.data_as(POINTER(c_uint32)),
                n,
            )
        )
        return found

    def _check_head(self, layer: int, head: int) -> None:
        if not 0 <= head < self.heads(layer):
            raise UsageError(f"layer {layer} has {self.heads(layer)} KV heads; there is no head {head}")

    def count(self, layer: int, head: int, stretches: Sequence[tuple[int, int]]) -> int:
        """How many cells of a layer and KV head are of tokens in [start, stop) of these stretches of the text."""
        ordinals = self.ordinals(layer, head)
        return sum(int(np.count_nonzero((ordinals >= start) & (ordinals < stop))) for start, stop in stretches)

    @property
    @in_step
    def has_gates(self) -> bool:
        """Whether gates are loaded, so that log β means something."""
        return bool(retain_h.has_gates(self._ctx))

    @property
    @in_step
    def has_static_gates(self) -> bool:
        """Whether gates are loaded whose output is the score itself: `log_beta` then gives the scores, of any sign."""
        return bool(retain_h.has_static_gates(self._ctx))

    # steering

    @property
    @in_step
    def budget(self) -> int:
        """M: cells per (layer, KV head) on average."""
        return retain_h.check(retain_h.get_budget(self._ctx, SEQUENCE))

    @in_step
    def set_budget(self, budget: int) -> None:
        """Change the budget, up to the one the model was loaded with; evicts at once when it shrinks."""
        budget = whole_number("budget", budget, 1)
        retain_h.check(retain_h.set_budget(self._ctx, SEQUENCE, budget))
        self._raise_scorer_error()

    @property
    @in_step
    def policy(self) -> str:
        """Name of the policy in use; set it to switch. The cells keep their log β."""
        return retain_h.get_policy(self._ctx).decode()

    @policy.setter
    @in_step
    def policy(self, name: str) -> None:
        if name not in retain_h.policies():
            raise UsageError(f"policy {name!r} is not one of {', '.join(retain_h.policies())}")
        retain_h.check(retain_h.set_policy(self._ctx, name.encode()))

    @property
    def own_pins(self) -> tuple[PinnedRange, ...]:
        """Pinned ranges without the system message's."""
        return tuple(self._pins)

    @property
    def system_pin(self) -> PinnedRange:
        """The range that is pinned as the system message; empty without one."""
        return self._system

    @property
    def pins(self) -> tuple[PinnedRange, ...]:
        """Pinned ranges, the system message's included."""
        return tuple(pin for pin in (self._system, *self._pins) if pin.stop > pin.start)

    @in_step
    def pin(self, start: int, stop: int) -> None:
        """Never evict the cells of positions [start, stop) from now on.

        Pins belong to positions, not to a text: they stay when a new prompt is read. Positions may be pinned before
        they are filled.
        """
        start, stop = whole_number("start", start, 0, _INT), whole_number("stop", stop, 0, _INT)
        if start >= stop:
            raise UsageError(f"[{start}, {stop}) is not a range of positions")
        retain_h.check(retain_h.pin(self._ctx, SEQUENCE, start, stop))
        self._pins.append(PinnedRange(start, stop))

    @in_step
    def unpin(self, start: int = 0, stop: int = -1) -> None:
        """Take back every pin that overlaps [start, stop); a negative stop means to the end."""
        retain_h.check(retain_h.unpin(self._ctx, SEQUENCE, start, stop))
        end = stop if stop >= 0 else 2**31

        def stays(pin: PinnedRange) -> bool:
            return pin.stop <= start or end <= pin.start

        self._pins = [pin for pin in self._pins if stays(pin)]
        if not stays(self._system):
            self._system = PinnedRange(0, 0)

    def pin_system(self, start: int, stop: int) -> None:
        """Pin positions [start, stop) as the system message, in place of an earlier one; an empty range pins none.

        They are pinned when the next tokens are read, since a new prompt clears what comes before it.
        """
        if (start, stop) != self._system:
            self._system = PinnedRange(start, stop)
            self._pins_applied = False

    def take_over_pins(self, pins: Sequence[tuple[int, int]], system: tuple[int, int] = (0, 0)) -> None:
        """Pin these ranges and the system message's, and nothing else, when the next tokens are read."""
        self._pins = [PinnedRange(*pin) for pin in pins]
        self._system = PinnedRange(*system)
        self._pins_applied = False

    @in_step
    def set_scorer(self, scorer: Scorer | None) -> None:
        """Score the cells of every eviction in Python; None takes the scorer out again.

        Parameters
        ----------
        scorer : called as scorer(layer, head, pos, log_beta, age) with arrays of shape [n_cells]; all int32 but
            log_beta, which is float32. They are its own, to keep or to change. age is tokens seen + 1 - the cell's
            ordinal, which is its position unless tokens share one. It returns finite scores, [n_cells]; the cells with the highest stay. None leaves them to the policy. What it raises
            comes out of the call that made the eviction run, and that eviction uses the policy's own scores. It cannot
            use this cache, or close the model.

        Raises
        ------
        UsageError : the scorer cannot be called.
        """
        if scorer is not None and not callable(scorer):
            raise UsageError(f"a scorer is a function or None, not {type(scorer).__name__}")
        callback = retain_h.ScoreCallback() if scorer is None else retain_h.ScoreCallback(self._call_scorer(scorer))
        retain_h.check(retain_h.set_callback(self._ctx, callback, None))
        self._callback = callback  # the library calls it: it must live as long as it is installed

    def _call_scorer(self, scorer: Scorer) -> Callable[..., bool]:
        def call(
            _user: Any,
            _seq: int,
            _seen: int,
            n: int,
            layer: Any,
            head: Any,
            pos: Any,
            log_beta: Any,
            age: Any,
            out: Any,
        ) -> bool:
            try:
                arrays = [np.ctypeslib.as_array(pointer, (n,)).copy() for pointer in (layer, head, pos, log_beta, age)]
                with self._usage.callback("eviction hook"):
                    returned = scorer(*arrays)
                if returned is None:
                    return False
                scores = np.asarray(returned, dtype=np.float32)
                if scores.shape != (n,) or not np.isfinite(scores).all():
                    found = f"shape {list(scores.shape)}" if scores.shape != (n,) else "some that are not"
                    raise UsageError(f"a scorer must return {n} finite scores; it returned {found}")
                np.ctypeslib.as_array(out, (n,))[:] = scores
                return True
            except BaseException as error:  # an exception cannot pass through C
                self._scorer_error = error
                return False

        return call

    # what Llama does around an evaluation

    def _move_to(self, ctx: int) -> None:
        """Go on with the cache of another context. Policy and scorer go along, and pins when the next tokens are read."""
        policy = self.policy
        self._open_ctx, self._pins_applied = ctx, False
        self.policy = policy
        if self._callback is not None:
            retain_h.check(retain_h.set_callback(ctx, self._callback, None))

    @property
    def _steering(self) -> Steering:
        return Steering(self.budget, self.policy, self.pins, self._callback or None)

    @property
    def _evicts(self) -> bool:
        """Whether there is anything that scores cells."""
        return self.policy != "none" or bool(self._callback)

    def _raise_scorer_error(self) -> None:
        error, self._scorer_error = self._scorer_error, None
        if error is not None:
            raise error

    def _apply_pins(self, restarted: bool) -> None:
        """Pin what is to be pinned: `restarted` tells that the sequence was cleared."""
        if self._pins_applied and not (restarted and self.pins):
            return
        retain_h.check(retain_h.unpin(self._ctx, SEQUENCE, 0, -1))
        for pin in self.pins:
            retain_h.check(retain_h.pin(self._ctx, SEQUENCE, *pin))
        self._pins_applied = True

    def _rollback_limit(self) -> int:
        """The shortest prefix that the cache can be cut back to exactly."""
        return retain_h.rollback_limit(self._ctx, SEQUENCE)

    def _draft_limit(self) -> int:
        """The most tokens to decode next where some may be taken back; no eviction then runs before they are known."""
        return retain_h.check(retain_h.draft_limit(self._ctx, SEQUENCE))

    def _hold(self, hold: bool) -> None:
        retain_h.check(retain_h.hold(self._ctx, SEQUENCE, hold))


def _ranges(numbers: tuple[int, ...]) -> str:
    """ "0-3, 6, 8-9" for (0, 1, 2, 3, 6, 8, 9)."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)
