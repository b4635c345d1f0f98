"""`retain-local demo`: a text is read with a full cache and with small ones, and questions show what each kept."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from .byte_format import format_bytes
from .cache_map import render_cache_map
from .errors import RetainError, UsageError
from .gates.bundled import tasks
from .generation import Generation, Sampling
from .llama import Llama
from .paths import BUNDLED_MODEL
from .retention import RetentionStats

_LEAST_TOKENS, _MOST_TOKENS = 256, 896  # with room for a question, the context that the model was trained for
_LEAST_BUDGET = 8
_ANSWER_TOKENS = 12
_ROOM = 128  # tokens for a question and its answer
_UBATCH, _BUFFER = 64, 16  # small, so that the cache is never far over its budget
_MAP_HEIGHT = 12
_SHOWN_SENTENCES = 12


@dataclass(frozen=True)
class Arm:
    """One way to keep the cache: a label and the options of `Llama`."""

    label: str
    options: dict[str, Any]


@dataclass(frozen=True)
class ArmResult:
    """What became of one arm: its answers in the order of the questions, the cache after the text, and speeds."""

    arm: Arm
    answers: list[str]
    stats: RetentionStats
    prompt_rate: float
    reply_rate: float
    cache_map: Group


def run_demo(budget: int, document_tokens: int, seed: int) -> None:
    """Run the demo and print it.

    Parameters
    ----------
    budget : cells for each (layer, KV head) in the small caches.
    document_tokens : length of the text.
    seed : of the text.

    Raises
    ------
    RetainError : the bundled model is not there, or an argument is out of range.
    """
    if not _LEAST_TOKENS <= document_tokens <= _MOST_TOKENS:
        raise UsageError(f"tokens is {document_tokens}; it must be {_LEAST_TOKENS} to {_MOST_TOKENS}")
    if not _LEAST_BUDGET <= budget <= document_tokens:
        raise UsageError(f"budget is {budget}; it must be {_LEAST_BUDGET} to {document_tokens}, the length of the text")
    if not BUNDLED_MODEL.exists():
        raise RetainError(f"the bundled model is not there: {BUNDLED_MODEL} is missing; install retain-local again")
    logging.getLogger("retain_local").setLevel(logging.WARNING)  # which gates are used is no news here
    console = Console(highlight=False)
    sample = tasks.demo_sample(seed, document_tokens)
    _introduce(console, sample)
    n_ctx = document_tokens + _ROOM
    arms = [
        Arm("full cache", {"policy": "none", "budget": n_ctx, "gates": None}),
        Arm(f"gate, budget {budget}", {"policy": "gate", "budget": budget}),
        Arm(f"window, budget {budget}", {"policy": "window", "budget": budget, "gates": None}),
    ]
    results = []
    for arm in arms:
        with console.status(f"{arm.label}: reading and answering"):
            results.append(_run_arm(arm, sample, n_ctx, console.width))
    console.print(_answer_table(sample, results))
    console.print(_summary_table(results))
    console.print(f"\nWhat the cache keeps of the text ({arms[1].label}):")
    console.print(results[1].cache_map)


def _introduce(console: Console, sample: tasks.Sample) -> None:
    sentences = re.findall(r"[^.]+\.", sample.document)
    shown = Text(" ".join(sentence.strip() for sentence in sentences[:_SHOWN_SENTENCES]) + " ...")
    shown.highlight_regex(r"Fact: [^.]+\.", "bold green")
    shown.highlight_regex(r"Rumor: [^.]+\.", "red")
    console.print(
        f"A text of {tasks.count_tokens(sample.document)} tokens holds [bold green]{len(sample.facts)} facts[/]"
        f" among filler and {len(sample.rumors)} [red]look-alikes[/] that are never asked for. It begins:\n"
    )
    console.print(shown)
    console.print("\nThe model reads it once, without knowing the questions, and is then asked for each fact.\n")


def _run_arm(arm: Arm, sample: tasks.Sample, n_ctx: int, width: int) -> ArmResult:
    llm = Llama(BUNDLED_MODEL, n_ctx=n_ctx, n_batch=_UBATCH, n_ubatch=_UBATCH, buffer=_BUFFER, **arm.options)
    try:
        read = [
            {"role": "user", "content": sample.document},
            {"role": "assistant", "content": tasks.ACKNOWLEDGEMENT},
        ]
        document = llm.tokenize(tasks.render(read).encode(), add_bos=False, special=True)
        start = time.perf_counter()
        llm.eval(document)
        seconds = time.perf_counter() - start
        # every question is asked of the cache as it was after the text, so that no answer helps another one
        state, stats = llm.save_state(), llm.retention.stats()
        cache_map = render_cache_map(llm.retention, width, _MAP_HEIGHT)
        answers, n_written, writing = [], 0, 0.0
        for question, _ in sample.questions:
            llm.load_state(state)
            turn = tasks.render([{"role": "user", "content": question}], add_generation_prompt=True)
            prompt = document + llm.tokenize(turn.encode(), add_bos=False, special=True)
            generation = Generation(llm, prompt, Sampling(temp=0, max_tokens=_ANSWER_TOKENS))
            answers.append("".join(generation).strip())
            n_written += max(0, len(generation.tokens) - 1)
            writing += generation.generation_seconds
        rate = n_written / writing if writing else 0.0
        return ArmResult(arm, answers, stats, len(document) / seconds, rate, cache_map)
    finally:
        llm.close()


def is_right(answer: str, expected: str) -> bool:
    """Whether an answer gives the value that was asked for: the two words at its end."""
    return _value(answer) == _value(expected)


def _value(answer: str) -> list[str]:
    return answer.rstrip(".").split()[-2:]


def _answer_table(sample: tasks.Sample, results: list[ArmResult]) -> Table:
    table = Table("question", "fact", *(result.arm.label for result in results))
    for i, (question, expected) in enumerate(sample.questions):
        cells = [
            Text(" ".join(_value(result.answers[i])), "green" if is_right(result.answers[i], expected) else "red")
            for result in results
        ]
        table.add_row(question, " ".join(_value(expected)), *cells)
    right = (sum(map(is_right, result.answers, (answer for _, answer in sample.questions))) for result in results)
    table.add_section()
    table.add_row("right", "", *(f"[bold]{n} of {len(sample.questions)}[/]" for n in right))
    return table


def _summary_table(results: list[ArmResult]) -> Table:
    table = Table("", *(result.arm.label for result in results))
    rows = {
        "cells kept": [f"{result.stats.cells_kept:,} of {result.stats.cells_seen:,}" for result in results],
        "most cells ever": [f"{result.stats.cells_peak:,}" for result in results],
        "evictions": [f"{result.stats.evictions:,}" for result in results],
        "KV in use": [format_bytes(result.stats.bytes_used) for result in results],
        "KV allocated": [format_bytes(result.stats.bytes_pool) for result in results],
        "reading": [f"{result.prompt_rate:,.0f} tok/s" for result in results],
        "answering": [f"{result.reply_rate:,.0f} tok/s" for result in results],
    }
    for label, cells in rows.items():
        table.add_row(label, *cells)
    return table
