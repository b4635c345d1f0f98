"""Where the questions of an evaluation come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ..errors import UsageError
from ..tasks import TASKS, Item, Task
from .benchmarks import BENCHMARKS, load_benchmark
from .benchmarks.benchmark import BenchmarkItem
from .text_task import PREFIX, TextTask, load_text_task

QUESTIONS = 8  # asked of one generated conversation at most


class Source(Protocol):
    """A task of an evaluation, generated or from a file.

    Attributes
    ----------
    name, title : str
    max_tokens : int
        Of a reply.
    is_chat : bool
        Whether the texts go through the model's chat template.
    may_be_cut : bool
        Whether a prompt that is too long may lose its middle.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def is_chat(self) -> bool: ...
    @property
    def may_be_cut(self) -> bool: ...

    def items(self, n_questions: int, seed: int) -> Sequence[Item | BenchmarkItem]:
        """Conversations with so many questions in all, or with all that there are."""


@dataclass(frozen=True)
class GeneratedTask:
    """A task of `retain_local.tasks` with some of its parameters replaced."""

    task: Task
    parameters: dict[str, int]
    max_tokens: int = 64  # more than any answer takes
    is_chat: bool = True
    may_be_cut: bool = False  # what is asked for may be anywhere

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def title(self) -> str:
        return self.task.title

    def items(self, n_questions: int, seed: int) -> list[Item]:
        items: list[Item] = []
        while n_questions > 0:
            item = self.task.item(f"{seed}-{len(items)}", **self.parameters)  # type: ignore[arg-type]  # fields of Parameters
            items.append(replace(item, questions=item.questions[: min(QUESTIONS, n_questions)]))
            n_questions -= len(items[-1].questions)
        return items


def find_sources(names: list[str], parameters: dict[str, int]) -> tuple[Source | TextTask, ...]:
    """The tasks of these names, each once.

    Parameters
    ----------
    names : of `TASKS`, or of benchmarks as `load_benchmark` reads them, or ``text:FILE``.
    parameters : fields of `tasks.Parameters` that replace those of the generated tasks which have them.

    Raises
    ------
    UsageError : an unknown task, a parameter that none of them has, or two files of one task.
    RetainError : a text or a benchmark's file cannot be read or has another format.
    """
    sources = tuple(_find(name, parameters) for name in dict.fromkeys(names))
    found = [source.name for source in sources]
    for name in found:
        if found.count(name) > 1:
            raise UsageError(f"there are {found.count(name)} files of {name}; evaluate them one by one")
    with_parameters = (source for source in sources if isinstance(source, (GeneratedTask, TextTask)))
    used = {name for source in with_parameters for name in source.parameters}
    for name in parameters:
        if name not in used:
            raise UsageError(f"--{name.removeprefix('n_')} makes no difference to {', '.join(names)}")
    return sources


def _find(name: str, parameters: dict[str, int]) -> Source | TextTask:
    if name.startswith(PREFIX):
        return load_text_task(name, parameters)
    if name.partition(":")[0].partition("/")[0] in BENCHMARKS:
        return load_benchmark(name)
    if name not in TASKS:
        others = f"no benchmark ({', '.join(BENCHMARKS)}), and no text:FILE"
        raise UsageError(f"task {name!r} is not one of {', '.join(TASKS)}, {others}")
    task = TASKS[name]
    return GeneratedTask(task, {key: value for key, value in parameters.items() if key in task.reads})
