"""How pictures look: one style for all, as SVG that follows the page's colours and as PNG on white.

Colours of series are Okabe and Ito's, which the colour-blind tell apart; shares are viridis and cividis, which grow
lighter evenly as well. No series is told by colour alone: they differ in marker or dash too.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import replaced

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#1b1e23", "#b9bfc8"
SHARES = "viridis"

_SHOWN = str.maketrans({"\n": "⏎", "\t": "⇥", "\r": "␍"})
_SPACE = "␣"  # in a token, where one at the end would not be seen
_LEGEND_COLUMNS = 5
_BLUE, _SKY = "#0072b2", "#56b4e9"
_COLOURS = (_BLUE, "#d55e00", "#009e73", "#e69f00", "#cc79a7", _SKY)
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))

# in a page these follow its colours, light or dark
_VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)", _BLUE: "var(--blue)", _SKY: "var(--sky)"}

_STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.alpha": 0.5,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.columnspacing": 1.4,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "svg.fonttype": "none",  # text stays text, in the page's font
    "image.interpolation": "none",
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK
    ),
}


@dataclass(frozen=True)
class Picture:
    """A figure with what a reader is told of it.

    name : of the file, without its suffix; unique in a page.
    caption : what is shown, and how to read it.
    """

    name: str
    title: str
    caption: str
    figure: Figure


@contextmanager
def styled(**more: Any) -> Iterator[None]:
    """Figures that are made or saved inside have the style."""
    import matplotlib

    with warnings.catch_warnings(), matplotlib.rc_context(_STYLE | more):
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a text may be in any script
        yield


def new_figure(width: float = 6.4, height: float = 3.8) -> Figure:
    """An empty figure of so many inches; to be used inside `styled`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def add_legend(figure: Figure, axes: Axes) -> None:
    """Name the labelled lines of some axes below the figure, row by row, in as many columns as its width holds."""
    handles, labels = axes.get_legend_handles_labels()
    n_rows = -(-len(labels) // _LEGEND_COLUMNS)
    for columns in range(-(-len(labels) // n_rows), 0, -1):
        order = [
            at for column in range(columns) for at in range(column, len(labels), columns)
        ]  # it is filled by column
        legend = figure.legend(
            [handles[at] for at in order], [labels[at] for at in order], loc="outside lower center", ncols=columns
        )
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def series(number: int, dash: int = 0) -> dict[str, Any]:
    """Colour, marker and dash of one of several lines; beyond the sixth they come again in another dash."""
    turn, at = divmod(number, len(_COLOURS))
    return {"color": _COLOURS[at], "marker": _MARKERS[at], "linestyle": _DASHES[(dash + turn) % len(_DASHES)]}


def to_svg(picture: Picture) -> str:
    """The picture as an `<svg>` element for a page, the same for the same numbers."""
    out = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with styled(**{"svg.hashsalt": picture.name}):
        picture.figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    # a page holds several pictures, in which matplotlib numbers what nothing refers to alike
    used = set(re.findall(r"#([\w.-]+)", svg))
    svg = re.sub(r' id="([\w.-]+)"', lambda match: match[0] if match[1] in used else "", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(picture.title)}"', 1)


def save_png(picture: Picture, folder: Path) -> None:
    """Write the picture into a folder.

    Raises
    ------
    RetainError : it cannot be written.
    """
    with styled(), replaced(folder / f"{picture.name}.png") as file:
        picture.figure.savefig(file, format="png", facecolor="white")


def shown(text: str) -> str:
    """A text in one line: ends of lines and tabs as signs, a replacement for what a terminal must not get."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text.translate(_SHOWN))


def shown_token(text: str) -> str:
    """A token in one line, with a sign for its spaces."""
    return shown(text).replace(" ", _SPACE)
