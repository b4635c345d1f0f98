"""Text tasks of an evaluation: files that every arm reads, whose predictions are compared with the full cache's.

Nothing is asked and nothing written. What is scored is the second half of each window: its first half is there to be
remembered, and the same tokens are scored in every arm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..divergence.texts import AuditText, make_texts, read_files
from ..errors import UsageError

if TYPE_CHECKING:
    from ..llama import Llama

PREFIX = "text:"
_USUAL_WINDOW = 2048  # tokens, where the context has room for them


@dataclass(frozen=True)
class TextTask:
    """A `Source` of an evaluation that is one file.

    content : of the file; parameters : `n_tokens`, the longest window, or nothing.
    """

    name: str
    content: str
    parameters: dict[str, int] = field(default_factory=dict)
    max_tokens: int = 0  # nothing is written
    is_chat: bool = False
    may_be_cut: bool = False

    @property
    def title(self) -> str:
        return self.name.removeprefix(PREFIX)

    def windows(self, llm: Llama, n_ctx: int, n_most: int) -> list[AuditText]:
        """The first `n_most` windows of the file.

        Parameters
        ----------
        llm : the vocabulary alone will do.
        n_ctx : of the caches that will read them.

        Raises
        ------
        RetainError : see `make_texts`.
        """
        window = self.parameters.get("n_tokens", min(_USUAL_WINDOW, n_ctx))
        return make_texts(llm, {self.name.removeprefix(PREFIX): self.content}, window, n_ctx)[:n_most]


def load_text_task(name: str, parameters: dict[str, int]) -> TextTask:
    """The task of ``text:FILE``; of the parameters of generated tasks it takes `n_tokens`.

    Raises
    ------
    UsageError : no file is named.
    RetainError : the file cannot be read, is not UTF-8, or empty.
    """
    path = Path(name.removeprefix(PREFIX))
    if not path.name:
        raise UsageError(f"task {name!r} names no file: text:FILE")
    own = {key: value for key, value in parameters.items() if key == "n_tokens"}
    return TextTask(PREFIX + path.name, read_files([path])[str(path)], own)
