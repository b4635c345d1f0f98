"""The retention options of a model: as a caller gives them, and as the native library takes them."""

from __future__ import annotations

import operator
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .budget import AUTO_BUDGET, parse_budget
from .errors import RetainError, UsageError
from .kv_types import KVType
from .models.model_file import ModelFile
from .recommendation import recommended_budget

# auto, and those of the native library in its order; written out, since reading the help does not load it
POLICIES = ("auto", "gate", "window", "knorm", "keydiff", "snapkv", "random", "none")
SCOPES = ("global", "layer", "head")
PREFILLS = ("bounded", "full")
AUTO_GATES, NO_GATES = "auto", "none"  # any other word is a path

# whole numbers and the least that each may be
_LEAST = {"policy_seed": 0, "buffer": 0, "sinks": 0, "recent": 0, "min_per_head": 0, "lookahead": 1, "n_ubatch": 1}
_MOST = 2**24 - 1  # more would overflow the 32-bit counts of cells

# A ubatch needs room in the pool beside the budget. A prompt is read hardly slower in ubatches of 128 tokens than in
# those of 512, and a third slower in those of 32.
_UBATCHES = (512, 256, 128, 64, 32)
_UBATCH_SHARE = 4  # the budget over a ubatch, at least

# what else than policy, scope and budget decides what a cache predicts
_SETTINGS = ("buffer", "sinks", "recent", "min_per_head", "lookahead")


@dataclass(frozen=True)
class RetentionOptions:
    """How a cache is kept in its budget.

    budget : cells per (layer, KV head) on average: a number, a share of the context ("1/4", "25%"), "512MiB" for the
        whole pool, or "auto", what an audit recommended. None: 2048, or the context where that is shorter. Under the
        policy "none" "auto" and None are the context.
    buffer : tokens that may come in over the budget before an eviction runs; None: a ubatch, for which the pool has room
        anyway. With less, evictions fall elsewhere in a prompt than in a text that is written.
    gates : path of a sidecar, "auto" (`<model>.gates.gguf` beside the model, if there is one), or "none" or None.
    policy : "gate" (learned scores), "window" (sinks and the most recent cells), "knorm" (keys of low norm), "keydiff"
        (keys unlike the mean key), "snapkv" (what the last queries attend to), "random" (a sample of all cells), "none"
        (never evict), or "auto": gate with gates, window without.
    scope : which cells compete: "global", all of the model; "layer" or "head", those of one layer or of one (layer, KV
        head), each with its own share of the budget.
    policy_seed : of the policy "random".
    sinks, recent : the first and the last positions that are never evicted.
    min_per_head : cells that every (layer, KV head) keeps.
    lookahead : N of the lookahead score.
    prefill : "bounded" evicts after each ubatch of a prompt; "full" reads the whole prompt first and evicts once.
    pin_system : never evict the system message of a chat.
    n_ubatch : tokens computed at once. None: 512, or less for a small budget, of which it takes a quarter at most, or for
        a small buffer; 32 at least.
    """

    budget: int | str | None = None
    buffer: int | None = None
    gates: str | os.PathLike[str] | None = "auto"
    policy: str = "auto"
    scope: str = "global"
    policy_seed: int = 0
    sinks: int = 4
    recent: int = 0
    min_per_head: int = 0
    lookahead: int = 1
    prefill: str = "bounded"
    pin_system: bool = False
    n_ubatch: int | None = None

    def __post_init__(self) -> None:
        if self.gates == NO_GATES:
            object.__setattr__(self, "gates", None)
        if not isinstance(self.gates, (str, os.PathLike, type(None))):
            raise UsageError(f"gates {self.gates!r} is no path, and neither 'auto' nor 'none'")
        _check_choice("pin-system", self.pin_system, (True, False))
        _check_choice("policy", self.policy, POLICIES)
        _check_choice("scope", self.scope, SCOPES)
        _check_choice("prefill", self.prefill, PREFILLS)
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None or name not in ("buffer", "n_ubatch"):
                object.__setattr__(self, name, whole_number(name, value, least))

    def resolve(
        self, model: ModelFile, *, n_ctx: int, type_k: KVType, type_v: KVType, n_batch: int = _UBATCHES[0]
    ) -> RetentionOptions:
        """The same options with everything decided: the numbers, the sidecar's path or None, the policy.

        Parameters
        ----------
        n_batch : tokens of the largest ubatch, where none is given.

        Raises
        ------
        UsageError : a budget that is none, or too small for the sinks, recent window and minimum.
        RetainError : a sidecar that is missing, the policy "gate" without one, or "auto" without a recommendation.
        """
        decided = self._decide_policy(model)
        budget = self.budget
        if self.policy == "none" and budget in (None, AUTO_BUDGET):
            budget = n_ctx
        elif budget == AUTO_BUDGET:
            budget = recommended_budget(model, decided, n_ctx=n_ctx, settings=settings_of(self, type_k, type_v))
        *larger, least = self._ubatches(n_batch, n_ctx)
        for n_ubatch in (*larger, least):
            try:
                cells = parse_budget(
                    budget,
                    n_ctx=n_ctx,
                    bytes_per_token=model.bytes_per_token(type_k, type_v),
                    n_room=max(n_ubatch if self.buffer is None else self.buffer, n_ubatch),
                )
            except UsageError:  # a size may be too small for the room of a large ubatch alone
                if n_ubatch == least:
                    raise
                continue
            if cells >= min(n_ubatch * _UBATCH_SHARE, n_ctx):  # one that covers the context needs no room beside it
                break
        if self.sinks + self.recent > cells:
            raise UsageError(
                f"sinks ({self.sinks}) and recent ({self.recent}) together are more than the budget of {cells} cells"
            )
        if self.min_per_head > cells:
            raise UsageError(f"min-per-head ({self.min_per_head}) is more than the budget of {cells} cells")
        buffer = n_ubatch if self.buffer is None else self.buffer
        return replace(decided, budget=cells, buffer=buffer, n_ubatch=n_ubatch)

    def _ubatches(self, n_batch: int, n_ctx: int) -> list[int]:
        """The ubatches to choose from, the largest first."""
        if self.n_ubatch is not None:
            return [min(self.n_ubatch, n_ctx)]
        most = min(n_batch, n_ctx)
        fit = most if self.buffer is None else min(most, self.buffer)
        return [n for n in _UBATCHES if n <= fit] or [min(_UBATCHES[-1], most)]

    def _decide_policy(self, model: ModelFile) -> RetentionOptions:
        gates = self._find_gates(model)
        if self.policy == "gate" and gates is None:
            path = model.sidecar_path()
            if self.gates is None and path.is_file():
                raise UsageError(f"the policy 'gate' needs gates, and 'none' leaves those at {path} out; use 'auto'")
            missing = "none are given" if self.gates is None else f"{path} does not exist"
            raise RetainError(
                f"the policy 'gate' needs gates, and {missing}; name a sidecar with gates, or use the policy 'window'"
            )
        policy = self.policy if self.policy != "auto" else "gate" if gates else "window"
        return replace(self, gates=gates, policy=policy)

    def _find_gates(self, model: ModelFile) -> Path | None:
        if self.gates is None:
            return None
        if os.fspath(self.gates) != AUTO_GATES:
            path = Path(self.gates)
            if not path.is_file():
                raise RetainError(f"{path}: no such gate sidecar")
            return path
        # scoring costs time in every layer: a policy that does not use it is not given gates it did not ask for
        path = model.sidecar_path()
        return path if self.policy in ("auto", "gate") and path.is_file() else None


def settings_of(options: RetentionOptions, type_k: KVType, type_v: KVType) -> dict[str, int | str]:
    """What else than policy, scope and budget decides what a cache predicts, by name."""
    return {name: getattr(options, name) for name in _SETTINGS} | {"type_k": type_k.name, "type_v": type_v.name}


def option_name(name: str) -> str:
    """An argument's name as the command line has it."""
    return {"n_ubatch": "ubatch", "n_batch": "batch", "n_ctx": "ctx"}.get(name, name.replace("_", "-"))


def whole_number(name: str, value: object, least: int, most: int = _MOST) -> int:
    """An option that is a whole number, of any integer type.

    Raises
    ------
    UsageError : it is none, or out of range.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        shown = repr(value) if number is None or abs(number) < 2**64 else "a number of more than 64 bits"
        raise UsageError(f"{option_name(name)} is {shown}; it must be a whole number from {least} to {most}")
    return number


def _check_choice(name: str, value: object, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} {value!r} is not one of {', '.join(map(str, choices))}")
