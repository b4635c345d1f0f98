"""`retain-local chat` and `retain-local run`: from what was asked for to a model that answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from ..chat.sampling import Sampling
from ..options.model_options import ModelOptions
from ..options.retention_options import RetentionOptions
from ..terminal.text_input import read_prompt
from .gates_published import tell_published
from .loading import load_model


def run_chat(model: str, system: str, retention: RetentionOptions, loading: ModelOptions, sampling: Sampling) -> int:
    """Chat with a model until the user leaves; returns the exit status.

    Raises
    ------
    RetainError : the model cannot be found, fetched or loaded.
    """
    llm = load_model(model, retention, loading)
    tell_published(llm, retention)

    from ..chat.session import Session
    from ..chat.ui import ChatUI

    return ChatUI(Session(llm, system, sampling)).run()


def complete(
    model: str,
    prompt: str | None,
    file: Path | None,
    images: Sequence[Path],
    chat: bool,
    system: str,
    as_json: bool,
    retention: RetentionOptions,
    loading: ModelOptions,
    sampling: Sampling,
) -> None:
    """Complete one prompt and print the text.

    Raises
    ------
    RetainError : the prompt or a picture cannot be read, or the model not be found, fetched or loaded.
    """
    if system and not chat:
        raise typer.BadParameter("a system message needs --chat", param_hint="--system")
    text = read_prompt(prompt, file)
    llm = load_model(model, retention, loading)
    tell_published(llm, retention)

    from ..chat.one_prompt import run_prompt

    run_prompt(llm, text, sampling, images=images, chat=chat, system=system, as_object=as_json)
