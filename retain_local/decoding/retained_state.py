"""The state of a `Llama`: what `save_state` returns and `load_state` takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..bindings import llama_cpp
from ..vision.picture import Picture
from .history import CacheHistory


class RetainedState(llama_cpp.llama.LlamaState):
    """The parent's state, with the pinned ranges, the one pinned as the system message, the pictures of the text, and how
    the cells came there."""

    def __init__(
        self,
        pins: Sequence[tuple[int, int]],
        system_pin: tuple[int, int],
        history: CacheHistory,
        pictures: Sequence[Picture],
        **fields: Any,
    ) -> None:
        super().__init__(**fields)
        self.pictures = tuple(pictures)
        self.pins = pins
        self.system_pin = system_pin
        self.history = history
