"""What an evaluation measures, and which of its settings decide the results."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..chat.template import ChatTemplate
from ..errors import RetainError, UsageError
from ..llama import Llama
from ..models.model_file import ModelFile, read_model_file
from ..options.archive import residents, share_text
from .arms import Arm
from .conversation import Script, write_script
from .source import Source
from .text_run import weights_arguments
from .text_task import TextTask

_NO_EFFECT = ("n_threads", "n_threads_batch", "verbose")  # on the replies


@dataclass(frozen=True)
class Plan:
    """What to measure.

    model : the model file.
    sources : see `find_sources`; arms : see `make_arms`.
    n_items : questions of each task, or windows of a text; seed : of generated conversations.
    parameters : of generated tasks, where not their own.
    load : arguments of `Llama` that are the same in every arm.
    cut : prompts that are too long for the context lose their middle, where their task allows it.
    """

    model: Path
    sources: tuple[Source | TextTask, ...]
    arms: tuple[Arm, ...]
    n_items: int = 100
    seed: int = 0
    parameters: dict[str, int] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    cut: bool = False

    def __post_init__(self) -> None:
        if self.n_items < 1:
            raise UsageError(f"items is {self.n_items}; it must be at least 1")

    def settings(self) -> dict[str, Any]:
        """All that decides the results beside tasks and arms, of which more may be added to a file of results."""
        without = _NO_EFFECT if self.load.get("archive") else (*_NO_EFFECT, "archive", "archive_type")
        load = {key: value for key, value in sorted(self.load.items()) if key not in without}
        model = read_model_file(self.model)
        return load | {
            "model": self.model.name,
            "model_fingerprint": model.fingerprint()[:16],
            "gates": _gates_fingerprint(model, self.load.get("gates", "auto")),
            "items": self.n_items,
            "seed": self.seed,
            "parameters": self.parameters,
            "cut": self.cut,
        }


def _gates_fingerprint(model: ModelFile, gates: Any) -> str:
    path = model.sidecar_path() if gates == "auto" else gates
    if path is None or not Path(path).is_file():
        return "none"
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


@dataclass(frozen=True)
class PreparedTask:
    """One task, ready to be run: its items, each with its tokens, and the context that holds the longest of them."""

    source: Source | TextTask
    items: Sequence[Any]  # of questions, or texts
    scripts: list[Script]
    stop: tuple[str, ...]
    n_ctx: int

    @property
    def is_text(self) -> bool:
        """Whether it is a text, which all arms read at once."""
        return isinstance(self.source, TextTask)

    @property
    def longest_shared(self) -> int:
        return max(len(script.shared) for script in self.scripts)


def prepare_tasks(plan: Plan) -> list[PreparedTask]:
    """The tasks in the tokens of the model.

    Raises
    ------
    RetainError : a conversation is longer than the context, or the template or the vocabulary cannot express it.
    UsageError : a budget is less than the cells that must be kept, or options that text tasks cannot have.
    """
    tasks = []
    n_train = read_model_file(plan.model).n_ctx_train
    with closing(Llama(plan.model, vocab_only=True, verbose=plan.load.get("verbose", False))) as llm:
        template = ChatTemplate(llm)
        for source in plan.sources:
            if isinstance(source, TextTask):
                tasks.append(_prepare_text(llm, source, plan, n_train))
            else:
                items = source.items(plan.n_items, plan.seed)
                scripts = [write_script(llm, template, item, source.is_chat) for item in items]
                scripts, n_ctx = _fit(source, scripts, plan, n_train)
                tasks.append(PreparedTask(source, items, scripts, template.stop, n_ctx))
            _check_budgets(plan, tasks[-1])
    return tasks


def _prepare_text(llm: Llama, source: TextTask, plan: Plan, n_train: int) -> PreparedTask:
    weights_arguments(plan.load)
    windows = source.windows(llm, plan.load.get("n_ctx", 0) or n_train, plan.n_items)
    scripts = [Script(window.tokens[:-1], [[]]) for window in windows]
    return PreparedTask(source, windows, scripts, (), max(len(window.tokens) for window in windows))


def _check_budgets(plan: Plan, task: PreparedTask) -> None:
    must_keep = max(plan.load.get("sinks", 0) + plan.load.get("recent", 0), plan.load.get("min_per_head", 0))
    n_prompt = min(len(script.shared) for script in task.scripts)
    for arm in plan.arms:
        if arm.budget is not None and residents(arm.budget.of(n_prompt), arm.recall) < must_keep:
            recalled = f" less the {share_text(arm.recall)} of it that are recalled" if arm.recall else ""
            raise UsageError(
                f"task {task.source.name}: a budget of {arm.budget}{recalled} is less than the {must_keep} cells that"
                " --sinks, --recent or --min-per-head always keep"
            )


def _fit(source: Source, scripts: list[Script], plan: Plan, n_train: int) -> tuple[list[Script], int]:
    """The scripts, cut where they may be, and the context for them: as asked for, or as long as it takes.

    Without `n_ctx` it is no longer than what the model was trained for.
    """
    asked = plan.load.get("n_ctx", 0)
    longest = max(script.longest for script in scripts)
    limit = asked or n_train or longest + source.max_tokens
    if plan.cut and source.may_be_cut:
        if limit <= source.max_tokens:
            raise RetainError(
                f"task {source.name}: the context of {limit:,} has no room beside a reply of {source.max_tokens:,}"
                " tokens; use a longer one (--ctx)"
            )
        scripts = [script.cut(limit - source.max_tokens) for script in scripts]
    elif longest >= limit:
        whose = "the context" if asked else "the model was trained for a context"
        shorter = "cut them (--cut)" if source.may_be_cut else "use shorter ones (--tokens)"
        raise RetainError(
            f"task {source.name}: a prompt of {longest:,} tokens is too long, {whose} of {limit:,};"
            f" {shorter}, or take a longer context (--ctx)"
        )
    return scripts, asked or min(longest + source.max_tokens, limit)
