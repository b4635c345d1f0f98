"""What the tables say of texts: cells as text, for the terminal, Markdown and the report."""

from __future__ import annotations

from .figures import percent
from .text_points import TextPoint
from .text_task import PREFIX

TEXT_HEADS = ("policy", "budget", "KL mean", "KL 99%", "agrees %", "PPL ratio")


def text_title(title: str, points: list[TextPoint]) -> str:
    """The title of a text's table, from the title or the name of its task."""
    full = "".join(f" (PPL {point.perplexity:.3f})" for point in points if point.is_full)
    return f"{title.removeprefix(PREFIX)}, against the full cache{full}, {points[0].n_tokens:,} tokens"


def text_row(point: TextPoint) -> list[str]:
    """What a table of a text says of an arm, under `TEXT_HEADS`; after ± half of the 95% interval."""
    if point.is_full:
        return [point.method, point.budget, "", "", "", ""]
    kl, agrees, ratio = ((mean, (high - low) / 2) for mean, low, high in (point.kl, point.agreement, point.ratio))
    return [
        point.method,
        point.budget,
        f"{kl[0]:.4f} ±{kl[1]:.4f}",
        f"{point.kl_99:.3f}",
        f"{percent(agrees[0])} ±{percent(agrees[1])}",
        f"{ratio[0]:.3f} ±{ratio[1]:.3f}",
    ]
