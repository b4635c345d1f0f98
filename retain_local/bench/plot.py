"""A picture of speed over depth."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from ..errors import RetainError, UsageError
from ..files import check_writable, replaced
from .measure import OURS, STOCK
from .summary import Row

_COLOURS = {OURS: "#0072B2", STOCK: "#D55E00"}  # Okabe and Ito's, which the colour-blind tell apart


def check_plot(path: Path) -> None:
    """Raise RetainError when no picture could be drawn or written, before anything is measured."""
    if importlib.util.find_spec("matplotlib") is None:
        raise RetainError("a picture needs matplotlib: pip install 'retain-local[report]'")
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if _format(path) not in known:
        raise UsageError(f"{path}: a picture cannot be a .{_format(path)}; it can be one of {', '.join(sorted(known))}")
    check_writable(path)


def save_plot(path: Path, rows: Sequence[Row], title: str) -> None:
    """Draw tokens a second over the depth, prefill and decode, each side a line; the file's suffix names the format."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    depths = [row.depth for row in rows]
    for axis, what, values in (
        (axes[0], "prefill", [row.read for row in rows]),
        (axes[1], "decode", [row.write for row in rows]),
    ):
        for name, colour in _COLOURS.items():
            if name in values[0]:
                axis.plot(depths, [value[name] for value in values], "o-", color=colour, label=name)
        axis.set(xlabel="depth, tokens", ylabel="tokens a second", title=what, xscale="log", ylim=0)
        axis.set_xticks(depths, [f"{depth:,}" for depth in depths], rotation=45)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend()
    try:
        with replaced(path) as file:
            figure.savefig(file, format=_format(path))
    finally:
        plt.close(figure)


def _format(path: Path) -> str:
    return path.suffix[1:].lower() or "png"
