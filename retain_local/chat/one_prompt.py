"""`retain-local run`: one prompt, one completion."""

from __future__ import annotations

import json
import sys

from rich.console import Console

from ..llama import Llama
from ..terminal.progress import PromptProgress
from .generation import Generation, Sampling
from .stats import as_json, stats_line
from .template import ChatTemplate


def run_prompt(llm: Llama, prompt: str, sampling: Sampling, *, chat: bool, system: str, as_object: bool) -> None:
    """Print a completion as it is written, or one JSON object with text, times and cache.

    Parameters
    ----------
    chat : the prompt is a user message, for the model's chat template; else it is the text to go on with.
    system : the system message of a chat.
    as_object : print JSON.
    """
    stop: tuple[str, ...] = ()
    if chat:
        template = ChatTemplate(llm)
        messages = [{"role": "system", "content": system}] if system else []
        tokens = template.first_turn([*messages, {"role": "user", "content": prompt}])
        stop = template.stop
        if llm.options.pin_system:
            llm.pin_system_message(tokens, system.strip())
    else:
        tokens = llm.tokenize(prompt.encode(), add_bos=True, special=True)
    progress = llm.on_prompt = PromptProgress()
    generation = Generation(llm, tokens, sampling, stop)
    try:
        for piece in generation:
            if not as_object:
                sys.stdout.write(piece)
                sys.stdout.flush()
    finally:
        progress.close()
    stats = llm.retention.stats()
    if as_object:
        json.dump(as_json(generation, stats, llm.retention.policy), sys.stdout, ensure_ascii=False)
        sys.stdout.write("\n")
        return
    sys.stdout.write("\n")
    sys.stdout.flush()
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[dim]{stats_line(generation, stats)}[/]")
