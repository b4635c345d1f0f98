"""Reading one window of a text in several arms at once, beside the full cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..divergence.divergence import Divergence, Reading
from ..divergence.lockstep import diverge
from ..divergence.texts import AuditText
from ..errors import UsageError
from ..kv_types import kv_type
from ..options.archive import WITHOUT_ARCHIVE
from ..options.retention_options import RetentionOptions
from ..options.table import options_of
from .arms import FULL, Arm
from .records import Record

if TYPE_CHECKING:
    from ..llama import Llama

_DIGITS = 5  # of a number of a token in the file of results

# arguments of `Llama` for a cache that keeps everything
WHOLE = {"policy": "none", "gates": None, "sinks": 0, "recent": 0, "min_per_head": 0, **WITHOUT_ARCHIVE}


def weights_arguments(load: dict[str, Any]) -> dict[str, Any]:
    """How the model is loaded whose weights the arms share: with the smallest cache of its own.

    Raises
    ------
    UsageError : the options hold evictions back.
    """
    if load.get("prefill", "bounded") != "bounded":
        raise UsageError("with prefill 'full' nothing is evicted while a text is read; use 'bounded' for text tasks")
    return load | WHOLE | {"budget": 1, "n_batch": load["n_ubatch"]}


def recalling(arm: Arm) -> dict[str, Any]:
    """The arguments of `Llama` for what an arm recalls, which replace those of all arms."""
    return {"recall": arm.recall} if arm.recall else WITHOUT_ARCHIVE


def measure_text(
    llm: Llama, load: dict[str, Any], text: AuditText, arms: Sequence[Arm], task: str, item: int
) -> list[Record]:
    """A record for each arm, in order.

    Parameters
    ----------
    llm : loaded with `weights_arguments`.
    load : arguments of `Llama` that are the same in every arm.
    """
    n = len(text.tokens)
    options = [_options(llm, load, arm, n) for arm in arms if arm.policy != FULL]
    # with the full cache alone to be read a second one is compared with it
    found = diverge(llm, text.tokens, options or [_options(llm, load, Arm(FULL), n)], first=(n - 1) // 2)
    rest = iter(found)
    return [_full(found[0], task, item) if arm.policy == FULL else _record(arm, next(rest), task, item) for arm in arms]


def _options(llm: Llama, load: dict[str, Any], arm: Arm, n_tokens: int) -> RetentionOptions:
    if arm.budget is None:
        options = RetentionOptions(n_tokens, gates=None, policy="none", sinks=0, n_ubatch=llm.context_params.n_ubatch)
    else:
        own = load | recalling(arm)
        common = {one.name: own[one.name] for one, _ in options_of(RetentionOptions) if one.name in own}
        options = replace(
            RetentionOptions(**common),
            budget=min(arm.budget.of(n_tokens - 1), n_tokens),
            gates=load.get("gates", "auto") if arm.policy == "gate" else None,
            policy=arm.policy,
            scope=arm.scope,
            n_ubatch=llm.context_params.n_ubatch,
        )
    params = llm.context_params
    return options.resolve(
        llm.model_file,
        n_ctx=llm.n_ctx(),
        type_k=kv_type(params.type_k),
        type_v=kv_type(params.type_v),
    )


def _full(found: Divergence, task: str, item: int) -> Record:
    full, nothing = found.full, np.zeros_like(found.kl)
    return _record(Arm(FULL), Divergence(full, full, nothing, len(nothing)), task, item)


def _record(arm: Arm, found: Divergence, task: str, item: int) -> Record:
    cache: Reading = found.cache
    scored = slice(len(found.kl) // 2, None)
    return Record(
        arm=str(arm),
        method=arm.method,
        budget=str(arm.budget or ""),
        task=task,
        item=item,
        scores=found.agrees[scored].astype(int).tolist(),
        replies=[],
        n_prompt=len(found.kl),
        n_budget=cache.budget,
        n_cells=cache.n_cells,
        n_written=0,
        bytes_peak=cache.bytes_peak,
        bytes_pool=cache.bytes_pool,
        bytes_archived=cache.bytes_archived,
        read_seconds=cache.seconds,
        write_seconds=0.0,
        kl=_rounded(found.kl[scored]),
        nll=_rounded(cache.nll[scored]),
    )


def _rounded(values: npt.NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values]
