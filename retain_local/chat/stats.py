"""Numbers of a run, in one line for people and as a dict for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..retention import RetentionStats
from ..terminal.byte_format import format_bytes
from .generation import Generation


def stats_line(generation: Generation, stats: RetentionStats) -> str:
    """Speed of a reply and state of the cache after it."""
    return (
        f"prompt {generation.n_prompt} tok, {generation.prompt_rate:,.1f} tok/s"
        f" · reply {len(generation.tokens)} tok, {generation.generation_rate:,.1f} tok/s"
        f" · {cells_kept(stats)}"
        f" · KV {format_bytes(stats.bytes_used)} of {format_bytes(stats.bytes_full)}"
    )


def cells_kept(stats: RetentionStats) -> str:
    """Cells kept of those seen."""
    share = 100 * stats.cells_kept / stats.cells_seen if stats.cells_seen else 100
    return f"kept {stats.cells_kept:,} of {stats.cells_seen:,} cells ({share:.0f}%)"


def stats_rows(stats: RetentionStats, policy: str) -> list[tuple[str, str]]:
    """Everything about the cache, as (label, value) pairs."""
    return [
        ("policy", policy),
        ("budget", f"{stats.budget:,} cells for each of {stats.streams:,} (layer, KV head) pairs"),
        ("tokens seen", f"{stats.tokens_seen:,}"),
        ("cells", f"{cells_kept(stats)}; most ever {stats.cells_peak:,}, never more than {stats.cells_limit:,}"),
        ("evicted", f"{stats.cells_evicted:,} cells in {stats.evictions:,} evictions, {stats.cells_moved:,} moved"),
        ("KV in use", f"{format_bytes(stats.bytes_used)}; a full cache would take {format_bytes(stats.bytes_full)}"),
        ("KV allocated", f"{format_bytes(stats.bytes_pool)}, {stats.pages:,} pages of {stats.page_size} cells"),
        ("selecting", f"{stats.select_seconds:.3f} s"),
        ("moving", f"{stats.move_seconds:.3f} s"),
        ("graph inputs", f"{stats.input_seconds:.3f} s"),
    ]


def as_json(generation: Generation, stats: RetentionStats, policy: str) -> dict[str, Any]:
    """A run for programs: the text, its tokens and times, and the cache."""
    return {
        "text": generation.text,
        "finish_reason": generation.finish_reason,
        "prompt_tokens": generation.n_prompt,
        "completion_tokens": len(generation.tokens),
        "timings": {
            "prompt_seconds": generation.prompt_seconds,
            "prompt_tokens_per_second": generation.prompt_rate,
            "generation_seconds": generation.generation_seconds,
            "generation_tokens_per_second": generation.generation_rate,
        },
        "retention": {"policy": policy, **asdict(stats)},
    }
