"""A longer context, or a larger budget, for a model that is loaded, in the middle of a conversation.

The context's length costs next to nothing: the pool of cells depends on the budget. It is fixed when a llama.cpp context
is made, though, so another context is made over the same weights, and the cells of the old one are carried over.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import RetainError, UsageError
from ..options.archive import residents, share_text
from ..options.budget import DEFAULT_BUDGET
from .sequence_state import restore_sequence, save_sequence

if TYPE_CHECKING:
    from ..llama import Llama
    from ..options.retention_options import RetentionOptions

_LONGEST = 2**31 - 1
_STEP = 256  # llama.cpp rounds a context up to a multiple of it
_LEAST_ROOM = 512  # tokens for the next reply


def longer_context(llm: Llama, n_tokens: int) -> int:
    """Tokens of a context to go on in: twice the present one, but no more than the model was trained for while a text of
    `n_tokens` and a reply fit that."""
    needed = n_tokens + _LEAST_ROOM
    n_ctx = max(2 * llm.n_ctx(), _rounded(needed))
    n_train = llm.model_file.n_ctx_train
    return n_train if max(llm.n_ctx(), needed) < n_train < n_ctx else n_ctx


def goes_beyond_training(llm: Llama, n_ctx: int) -> bool:
    """Whether a context would be the first one of this model that is longer than what it was trained for."""
    return llm.n_ctx() <= llm.model_file.n_ctx_train < n_ctx


def full_context(llm: Llama, n_tokens: int) -> str:
    """Says that the context is full, and what to do about it."""
    return (
        f"the context of {llm.n_ctx():,} tokens is full; /ctx {longer_context(llm, n_tokens)} goes on in a longer one,"
        " /clear begins anew"
    )


def change_context(llm: Llama, *, n_ctx: int | None = None, budget: int | None = None) -> None:
    """Go on in a context of another length, or with another budget; tokens, cells, pins and policy are carried over.

    Parameters
    ----------
    n_ctx : tokens of the context; None: as it is.
    budget : cells for each (layer, KV head) on average; None: as it is. One that covers the context goes on covering it,
        up to the usual budget where something can be evicted.

    Raises
    ------
    UsageError : a number out of range, or a context shorter than the text.
    RetainError : the context cannot be made. The model then goes on in the old one.
    """
    with llm._usage.turn(), llm._usage.step():
        _change_context(llm, n_ctx, budget)


def _change_context(llm: Llama, n_ctx: int | None, budget: int | None) -> None:
    n_ctx = llm.n_ctx() if n_ctx is None else n_ctx
    if not 1 <= n_ctx <= _LONGEST:
        raise UsageError(f"a context of {n_ctx} tokens is out of range: 1 to {_LONGEST}")
    if n_ctx <= llm.n_tokens:
        raise UsageError(f"a context of {n_ctx:,} tokens is too short for the text of {llm.n_tokens:,}")
    if budget is None:
        budget = _budget_in(llm, n_ctx)
        # the one in use can be less than what the pool is made for
        in_use = min(llm.retention.budget, budget) if llm.retention.budget < _budget_of(llm.options) else budget
    else:
        in_use = budget
    options = replace(llm.options, budget=_budget_with_room(llm, budget, n_ctx))
    params = type(llm.context_params).from_buffer_copy(llm.context_params)
    params.n_ctx = n_ctx
    tokens, history = llm.input_ids[: llm.n_tokens].tolist(), llm._history
    old, new, budget_before = llm._ctx, _make(llm, params, options), llm.retention.budget
    try:
        if tokens:
            # cells take the budget of their sequence along; lowered no further than this it evicts nothing
            lowered = max(_budget_of(options), _held(llm))
            if lowered < budget_before:
                llm.retention.set_budget(lowered)
            cells = save_sequence(llm)
            _use(llm, new)
            restore_sequence(llm, cells, tokens)
        else:
            _use(llm, new)
        llm.adopt_tokens(tokens, history)
        if llm.retention.budget != in_use:  # to set one evicts at once
            llm.retention.set_budget(in_use)
    except BaseException:
        _use(llm, old)
        llm.retention.set_budget(budget_before)
        llm.adopt_tokens(tokens, history)
        new.close()
        raise
    llm._stack.enter_context(closing(new))
    old.close()
    llm.context_params, llm.options = params, options


def _budget_of(options: RetentionOptions) -> int:
    """The budget that a pool is made for."""
    assert isinstance(options.budget, int)  # resolved
    return options.budget


def _held(llm: Llama) -> int:
    """Cells held now per (layer, KV head) on average."""
    stats = llm.retention.stats()
    return -(-stats.cells_kept // stats.cell_lists)


def _budget_in(llm: Llama, n_ctx: int) -> int:
    """The budget that suits a context of another length."""
    if llm.options.policy == "none":
        return n_ctx
    budget = _budget_of(llm.options)
    covers_all = budget >= llm.context_params.n_ctx
    return min(max(budget, DEFAULT_BUDGET) if covers_all else budget, n_ctx)


def _budget_with_room(llm: Llama, budget: int, n_ctx: int) -> int:
    """The budget to make a pool for, so that it has room for the cells held now: at least `budget`, more where some of it is
    for recalled cells and the cells held come from a cache without an archive.

    Raises
    ------
    UsageError : the context would have no archive for the archived cells, or is too short for such a budget.
    """
    options, n_ctx = llm.options, _rounded(n_ctx)
    if not options.recall_share or options.policy == "none":
        return budget
    if budget >= n_ctx:
        if llm.retention.stats().cells_archived:
            raise UsageError(
                f"a budget of {budget:,} cells covers the context of {n_ctx:,} tokens, and such a cache has no archive,"
                " while this conversation has archived cells; use a smaller budget, or a longer context"
            )
        return budget
    assert options.buffer is not None and options.n_ubatch is not None  # resolved
    held = _held(llm)
    roomy = max(budget, held) if budget < llm.retention.budget else budget
    while residents(roomy, options.recall_share) + max(options.buffer, options.n_ubatch) < held:
        roomy += 1
    if roomy >= n_ctx:
        longer = _rounded(roomy + 1)
        raise UsageError(
            f"with {share_text(options.recall_share)} recall a context of {n_ctx:,} tokens has no room for the cells of this"
            f" conversation; /ctx {longer} has"
        )
    return roomy


def _rounded(n_ctx: int) -> int:
    """A context as llama.cpp makes it."""
    return -(-n_ctx // _STEP) * _STEP


def _make(llm: Llama, params: Any, options: RetentionOptions) -> Any:
    """A context over the weights of a model."""
    from llama_cpp._internals import LlamaContext

    from ..bindings import log, retain_h
    from ..bindings.context import armed

    log.forget_errors()
    try:
        with armed(options):
            return LlamaContext(model=llm._model, params=params, verbose=llm.verbose)
    except ValueError as error:
        reason = retain_h.error_text() or log.first_error() or str(error)
        raise RetainError(f"a context of {params.n_ctx:,} tokens cannot be made: {reason}") from None


def _use(llm: Llama, context: Any) -> None:
    """Make a context the one that the model computes in."""
    llm._ctx = context
    llm._n_ctx = llm.n_ctx()
    llm._fit_buffers()
    llm.retention._move_to(context.ctx)
    llm._n_evictions = llm.retention.stats().evictions
