"""The retention options of a model: as a caller gives them, and as the native library takes them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from .budget import AUTO_BUDGET, parse_budget
from .errors import RetainError, UsageError
from .kv_types import KVType
from .models.model_file import ModelFile
from .recommendation import recommended_budget

# auto, and those of the native library in its order; written out, since reading the help does not load it
POLICIES = ("auto", "gate", "window", "knorm", "keydiff", "snapkv", "random", "none")
SCOPES = ("global", "layer", "head")
PREFILLS = ("bounded", "full")

# whole numbers and the least that each may be
_LEAST = {"policy_seed": 0, "buffer": 0, "sinks": 0, "recent": 0, "min_per_head": 0, "lookahead": 1}


# what else than policy, scope and budget decides what a cache predicts
_SETTINGS = ("buffer", "sinks", "recent", "min_per_head", "lookahead")


@dataclass(frozen=True)
class RetentionOptions:
    """How a cache is kept in its budget.

    budget : cells per (layer, KV head) on average: a number, "25%" of the context, "512MiB" for the whole pool, or
        "auto", what an audit recommended. None: 2048, or the context where that is shorter. Under the policy "none"
        "auto" and None are the context.
    buffer : tokens that may come in over the budget before an eviction runs.
    gates : path of a sidecar, "auto" (`<model>.gates.gguf` beside the model, if there is one), or None.
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
    """

    budget: int | str | None = None
    buffer: int = 128
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

    def __post_init__(self) -> None:
        _check_choice("policy", self.policy, POLICIES)
        _check_choice("scope", self.scope, SCOPES)
        _check_choice("prefill", self.prefill, PREFILLS)
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not least <= value < 2**24:
                raise UsageError(f"{name.replace('_', '-')} is {value!r}; it must be a whole number from {least}")

    def resolve(
        self, model: ModelFile, *, n_ctx: int, n_ubatch: int, type_k: KVType, type_v: KVType
    ) -> RetentionOptions:
        """The same options with everything decided: the budget in cells, the sidecar's path or None, the policy.

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
        budget = parse_budget(
            budget,
            n_ctx=n_ctx,
            bytes_per_token=model.bytes_per_token(type_k, type_v),
            n_room=max(self.buffer, n_ubatch),
        )
        if self.sinks + self.recent > budget:
            raise UsageError(
                f"sinks ({self.sinks}) and recent ({self.recent}) together are more than the budget of {budget} cells"
            )
        if self.min_per_head > budget:
            raise UsageError(f"min-per-head ({self.min_per_head}) is more than the budget of {budget} cells")
        return replace(decided, budget=budget)

    def _decide_policy(self, model: ModelFile) -> RetentionOptions:
        gates = self._find_gates(model)
        if self.policy == "gate" and gates is None:
            raise RetainError(
                f"the policy 'gate' needs gates, and {model.sidecar_path()} does not exist;"
                " name a sidecar with gates, or use the policy 'window'"
            )
        policy = self.policy if self.policy != "auto" else "gate" if gates else "window"
        return replace(self, gates=gates, policy=policy)

    def _find_gates(self, model: ModelFile) -> Path | None:
        if self.gates is None:
            return None
        if os.fspath(self.gates) != "auto":
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


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} {value!r} is not one of {', '.join(choices)}")
