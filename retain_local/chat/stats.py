"""Numbers of a run, in one line for people and as a dict for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..retention.stats import RetentionStats
from ..terminal.byte_format import format_bytes
from .generation import Generation

_NEARLY_FULL = 0.75  # of the context
_HOST = "CPU"  # cells there are no news


def stats_line(
    generation: Generation, stats: RetentionStats, n_ctx: int, width: int | None = None, *, is_timed: bool = True
) -> str:
    """Speed of a reply, and state of the cache after it where there is something to say.

    Parameters
    ----------
    generation : a reply that has begun.
    n_ctx : tokens of the context, which is mentioned when little of it is left.
    width : columns that the line may take; what matters least is left out until it fits. None: any number.
    is_timed : the times are those of the computer's work, so that there are speeds.
    """
    prompt = f"prompt {generation.n_prompt:,} tok"
    parts = [f"reply {len(generation.tokens):,} tok"]
    if is_timed:
        prompt += f", {_rate(generation.prompt_rate)}"
    if is_timed and generation.generation_rate:
        parts[0] += f", {_rate(generation.generation_rate)}"
    if stats.tokens_seen >= _NEARLY_FULL * n_ctx:
        parts.append(f"context {stats.tokens_seen:,} of {n_ctx:,}")
    if stats.cells_kept < stats.cells_seen:
        fixed = f" + {format_bytes(stats.bytes_fixed)} fixed" if stats.bytes_fixed else ""
        archived = f" + {format_bytes(stats.bytes_archived)} archived" if stats.bytes_archived else ""
        parts.append(f"KV {format_bytes(_bytes_kept(stats))} of {format_bytes(stats.bytes_full)}{archived}{fixed}")
    if stats.device != _HOST:
        parts.append(f"KV on {stats.device}")
    lines = [" · ".join([prompt, *parts]), *(" · ".join(parts[:n]) for n in range(len(parts), 0, -1))]
    return next((line for line in lines if width is None or len(line) <= width), lines[-1])


def _rate(rate: float) -> str:
    return f"{rate:,.{0 if rate >= 100 else 1}f} tok/s"


def _bytes_kept(stats: RetentionStats) -> int:
    """Bytes of the cells themselves; pages that are part full take more."""
    return stats.cells_kept * stats.bytes_cell


def cells_kept(stats: RetentionStats) -> str:
    """Cells kept of those seen."""
    share = 100 * stats.cells_kept / stats.cells_seen if stats.cells_seen else 100
    return f"kept {stats.cells_kept:,} of {stats.cells_seen:,} cells ({share:.0f}%)"


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def stats_rows(stats: RetentionStats, policy: str) -> list[tuple[str, str]]:
    """Everything about the cache, as (label, value) pairs."""
    fixed = [("beside it", f"{format_bytes(stats.bytes_fixed)} of sliding windows and recurrent states, a fixed size")]
    apart = f", {stats.residents:,} of them in the cache and {stats.recall:,} recalled" if stats.recall else ""
    return [
        ("policy", policy),
        ("budget", f"{stats.budget:,} cells for each of {stats.cell_lists:,} (layer, KV head) pairs{apart}"),
        ("tokens seen", f"{stats.tokens_seen:,}"),
        ("cells", f"{cells_kept(stats)}; most ever {stats.cells_peak:,}, never more than {stats.cells_limit:,}"),
        (
            "evicted",
            f"{stats.cells_evicted:,} cells in {_counted(stats.evictions, 'eviction')}, {stats.cells_moved:,} moved",
        ),
        ("KV kept", f"{format_bytes(_bytes_kept(stats))}; a full cache would take {format_bytes(stats.bytes_full)}"),
        ("KV in use", f"{format_bytes(stats.bytes_used)}, part-filled pages included"),
        (
            "KV allocated",
            f"{format_bytes(stats.bytes_pool)}, {stats.pages:,} pages of {stats.page_size} cells, on {stats.device}",
        ),
        *(fixed if stats.bytes_fixed else []),
        *(_archive_rows(stats) if stats.bytes_archive else []),
        ("selecting", f"{stats.select_seconds:.3f} s"),
        ("moving", f"{stats.move_seconds:.3f} s"),
        ("graph inputs", f"{stats.input_seconds:.3f} s"),
        *([("archiving", f"{stats.archive_seconds:.3f} s")] if stats.bytes_archive else []),
    ]


def _archive_rows(stats: RetentionStats) -> list[tuple[str, str]]:
    dropped = f"; {stats.cells_dropped:,} dropped for want of room" if stats.cells_dropped else ""
    return [
        (
            "archive",
            f"{stats.cells_archived:,} evicted cells, room for {stats.cells_archived_limit:,}{dropped}",
        ),
        ("archive in use", f"{format_bytes(stats.bytes_archived)} of {format_bytes(stats.bytes_archive)}"),
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
