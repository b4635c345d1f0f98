"""`retain-local run`: one prompt, one completion."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ..llama import Llama
from ..prompts.pictures import check_texts, mark_of
from ..terminal.progress import PromptProgress
from ..terminal.safe_text import safe_text
from ..terminal.stderr import stderr_console
from ..terminal.suspension import watch_suspension
from ..terminal.text_output import TextOutput
from ..vision.source import read_image_file
from .context_size import longer_context
from .generation import Generation, Sampling
from .stats import as_json, stats_line
from .template import ChatTemplate


def run_prompt(
    llm: Llama,
    prompt: str,
    sampling: Sampling,
    *,
    images: Sequence[Path] = (),
    chat: bool,
    system: str,
    as_object: bool,
) -> None:
    """Print a completion as it is written, or one JSON object with text, times and cache.

    Parameters
    ----------
    images : files of pictures, which come before the prompt.
    chat : the prompt is a user message, for the model's chat template; else it is the text to go on with.
    system : the system message of a chat.
    as_object : print JSON.
    """
    stop: tuple[str, ...] = ()
    pictures = {mark_of(i): llm.projector.read(read_image_file(path), str(path)) for i, path in enumerate(images)}
    if chat:
        template = ChatTemplate(llm)
        template.pictures.update(pictures)
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        if pictures:
            check_texts(messages)
            messages[-1]["content"] = "".join(pictures) + prompt
        tokens = template.first_turn(messages)
        stop = template.stop
        if llm.options.pin_system:
            llm.retention.pin_system(*llm.positions(tokens, *template.system_range(messages)))
    else:
        tokens = llm.tokenize(prompt.encode(), add_bos=True, special=True)
        if pictures:
            n_bos = len(tokens) - len(llm.tokenize(prompt.encode(), add_bos=False, special=True))
            tokens[n_bos:n_bos] = [token for image in pictures.values() for token in image.tokens]
    progress = llm.on_prompt = PromptProgress()
    generation = Generation(llm, tokens, sampling, stop)
    output = TextOutput()
    with watch_suspension() as was_suspended:
        try:
            for piece in generation:
                if not as_object:
                    output.write(piece)
        except KeyboardInterrupt:
            if not as_object:
                output.end()
            raise
        finally:
            progress.close()
        is_timed = not was_suspended()
    stats = llm.retention.stats()
    if as_object:
        found = json.dumps(as_json(generation, stats, llm.retention.policy), ensure_ascii=False)
        print(safe_text(found) if sys.stdout.isatty() else found)
        return
    output.end()
    console = stderr_console()
    width = console.width if sys.stderr.isatty() else None
    console.print(f"[dim]{stats_line(generation, stats, llm.n_ctx(), width, is_timed=is_timed)}[/]")
    n_tokens = len(tokens) + len(generation.tokens)
    if generation.finish_reason == "length" and n_tokens >= llm.n_ctx():
        console.print(
            f"[yellow]the context of {llm.n_ctx():,} tokens is full: --ctx {longer_context(llm, n_tokens)} has room for"
            " more[/]"
        )
