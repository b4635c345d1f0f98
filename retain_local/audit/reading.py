"""Running an audit: each text once through the full cache and through one cache for each budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..divergence.lockstep import diverge
from ..divergence.texts import AuditText
from ..errors import UsageError
from ..kv_types import KVType, kv_type
from ..options.archive import AUTO_TYPE, WITHOUT_ARCHIVE, parse_archive, size_text
from ..options.budget import Budget
from ..options.retention_options import RetentionOptions, settings_of
from .result import Audit, BudgetAudit

if TYPE_CHECKING:
    from ..llama import Llama


def audit_texts(
    llm: Llama,
    texts: Sequence[AuditText],
    budgets: Sequence[Budget],
    options: RetentionOptions,
    on_progress: Callable[[int, int], None] | None = None,
    recalls: Sequence[float] = (0.0,),
) -> Audit:
    """Audit a model on texts.

    Parameters
    ----------
    llm : the model, with the context, types and ubatch that are to be audited; its own cache is not used.
    texts : of two tokens at least.
    budgets : a share is of the tokens of each text.
    options : of the cache, as a user gives them; the budget and what is recalled are replaced.
    on_progress : called with (tokens read, tokens to read), added up over texts and caches.
    recalls : the shares of each budget for recalled cells, 0 for none; see `RetentionOptions.recall`.

    Raises
    ------
    UsageError : a policy that never evicts, a budget too small for the sinks and the recent window, or a text too short.
    RetainError : gates are missing, or a cache cannot be made.
    """
    if options.policy == "none":
        raise UsageError("the policy 'none' never evicts, so there is nothing to audit")
    arms = [(budget, recall) for budget in budgets for recall in recalls]
    caches = [[options_for(llm, options, *arm, text) for arm in arms] for text in texts]
    total = sum(len(text.tokens) - 1 for text in texts) * (len(arms) + 1)
    done, found = 0, []
    for text, own in zip(texts, caches):

        def report(read: int, _: int, before: int = done) -> None:
            if on_progress is not None:
                on_progress(before + read, total)

        found.append(diverge(llm, text.tokens, own, report))
        done += (len(text.tokens) - 1) * (len(arms) + 1)
    by_arm = [BudgetAudit(budget, tuple(texts), ones, recall) for (budget, recall), ones in zip(arms, zip(*found))]
    resolved = caches[0][0]
    types = _types(llm)
    return Audit(
        model=llm.model_file.path,
        gates=None if resolved.gates is None else Path(resolved.gates),
        policy=resolved.policy,
        scope=resolved.scope,
        settings=settings_of(without_archive(resolved), *types),
        n_ctx=llm.n_ctx(),
        n_chunk=llm.context_params.n_ubatch,
        texts=tuple(texts),
        budgets=tuple(sorted(by_arm, key=lambda one: (-one.cells, one.recall))),
        archive=next((_archive(one) for one in caches[0] if one.recall_share), {}),
        names_archive_type=options.archive_type != AUTO_TYPE,
    )


def _archive(options: RetentionOptions) -> dict[str, int | str]:
    """Size and type of the archive, of options that are resolved."""
    return {"archive": size_text(parse_archive(options.archive)), "archive_type": options.archive_type}


def without_archive(options: RetentionOptions) -> RetentionOptions:
    """The same options of a cache that recalls nothing."""
    return replace(options, **WITHOUT_ARCHIVE)


def options_for(
    llm: Llama, options: RetentionOptions, budget: Budget, recall: float, text: AuditText
) -> RetentionOptions:
    """The options of the cache that reads a text at a budget, with a share of it for recalled cells, resolved."""
    options = replace(options, recall=recall) if recall else without_archive(options)
    n_read = max(1, len(text.tokens) - 1)
    type_k, type_v = _types(llm)
    n_ubatch = llm.context_params.n_ubatch
    own = replace(options, budget=min(budget.of(len(text.tokens)), n_read), n_ubatch=n_ubatch)
    try:
        return own.resolve(llm.model_file, n_ctx=llm.n_ctx(), type_k=type_k, type_v=type_v)
    except UsageError as error:
        raise UsageError(f"{text.file} has {len(text.tokens):,} tokens; at the budget {budget} {error}") from None


def _types(llm: Llama) -> tuple[KVType, KVType]:
    return kv_type(llm.context_params.type_k), kv_type(llm.context_params.type_v)
