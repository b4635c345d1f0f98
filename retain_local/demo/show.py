"""Running the demo: every cache reads the conversation and is asked the same questions."""

from __future__ import annotations

import logging
from contextlib import closing
from typing import Any

from rich.console import Console

from ..chat.cache_map import render_cache_map
from ..chat.template import ChatTemplate
from ..errors import RetainError, UsageError
from ..evaluation.conversation import ask_all, write_script
from ..llama import Llama
from ..options.budget import Budget
from ..paths import BUNDLED_MODEL
from .conversation import Conversation, make_conversation
from .screen import ArmResult, show_conversation, show_results

LEAST_TOKENS, MOST_TOKENS = 256, 832  # with room for turns and a question, the context that the model was trained for
LEAST_BUDGET = 8
_REPLY_TOKENS = 48
_ROOM = 192  # tokens for turns, a question and its reply
_UBATCH, _BUFFER = 64, 16  # small, so that the cache is never far over its budget
_MAP_HEIGHT = 12


def run_demo(budget: int | str, n_tokens: int, seed: int, console: Console | None = None) -> None:
    """Run the demo and print it.

    Parameters
    ----------
    budget : cells for each (layer, KV head) in the small caches, or a share of the conversation.
    n_tokens : length of the conversation.
    seed : of the conversation.
    console : where it is printed; None: on stdout.

    Raises
    ------
    RetainError : the bundled model is not there.
    UsageError : an argument is out of range.
    """
    if not LEAST_TOKENS <= n_tokens <= MOST_TOKENS:
        raise UsageError(f"tokens is {n_tokens}; it must be {LEAST_TOKENS} to {MOST_TOKENS}")
    budget = Budget.parse(budget).of(n_tokens)
    if not LEAST_BUDGET <= budget <= n_tokens:
        raise UsageError(f"budget is {budget}; it must be {LEAST_BUDGET} to {n_tokens}, the length of the conversation")
    if not BUNDLED_MODEL.exists():
        raise RetainError(f"the bundled model is not there: {BUNDLED_MODEL} is missing; install retain-local again")
    logging.getLogger("retain_local").setLevel(logging.WARNING)  # which gates are used is no news here
    console = console or Console(highlight=False, emoji=False)
    conversation = make_conversation(seed, n_tokens)
    show_conversation(console, conversation)
    n_ctx = n_tokens + _ROOM
    arms: dict[str, dict[str, Any]] = {
        "full cache": {"policy": "none", "budget": n_ctx, "gates": None},
        f"gates, budget {budget}": {"policy": "gate", "budget": budget},
        f"window, budget {budget}": {"policy": "window", "budget": budget, "gates": None},
    }
    results = []
    for label, options in arms.items():
        with console.status(f"{label}: reading and answering"):
            results.append(_run_arm(label, options, conversation, n_ctx, console.width))
    show_results(console, conversation, results)


def _run_arm(label: str, options: dict[str, Any], conversation: Conversation, n_ctx: int, width: int) -> ArmResult:
    # one thread: the layers are so small that more of them mostly wait for each other
    arguments = options | {"n_batch": _UBATCH, "n_ubatch": _UBATCH, "buffer": _BUFFER, "n_threads": 1}
    with closing(Llama(BUNDLED_MODEL, n_ctx=n_ctx, n_threads_batch=1, **arguments)) as llm:
        template = ChatTemplate(llm)
        script = write_script(llm, template, conversation.item)
        replies = ask_all(llm, script, _REPLY_TOKENS, template.stop)
        stats = llm.retention.stats()
        llm.reset()  # back to what was kept before the questions
        llm.eval(script.shared)
        return ArmResult(label, replies, stats, len(script.shared), render_cache_map(llm.retention, width, _MAP_HEIGHT))
