"""A text whose tokens are coloured by how many heads still hold them: for a page, and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .recalls import MOST_NAMED, Recalls
from .style import Picture, new_figure, shown, styled

LEVELS = 16  # shades between held by none (0) and by all
OPACITIES = [0.0, *(0.12 + 0.88 * level / LEVELS for level in range(1, LEVELS + 1))]  # the first shade is seen, too
_CHUNK = 256  # tokens, more or less, that a browser lays out together
_COLUMNS, _ROWS = 100, 48  # of the picture
_HELD, _GONE = "#7fb8d8", "#8a9099"


@dataclass(frozen=True)
class ColouredText:
    """A text with what is left of it.

    pieces : text of each token.
    held : how many heads hold it, of `n_cell_lists` in all.
    log_beta : mean over all heads; None without gates.
    kl : what its prediction lost, in nats, None where that is not known; 0 for the first token, which nothing predicts.
    recalls : what was recalled of it; None where nothing can be.
    """

    pieces: Sequence[str]
    held: npt.NDArray[np.int64]
    n_cell_lists: int
    log_beta: npt.NDArray[np.float64] | None = None
    kl: npt.NDArray[np.float64] | None = None
    recalls: Recalls | None = None

    @property
    def n_named(self) -> int:
        """The most tokens that a page marks as recalled for another one."""
        return MOST_NAMED

    @property
    def n_gone(self) -> int:
        """Tokens that no head holds."""
        return int((self.held == 0).sum())

    @property
    def n_whole(self) -> int:
        """Tokens that all heads hold."""
        return int((self.held == self.n_cell_lists).sum())

    @property
    def levels(self) -> npt.NDArray[np.int64]:
        """Shade of each token, 0 to `LEVELS`: 0 only where no head holds it, `LEVELS` only where all do."""
        shade = np.ceil(self.held / self.n_cell_lists * (LEVELS - 1)).astype(int)
        return np.where(self.held == self.n_cell_lists, LEVELS, shade)

    def chunks(self) -> Iterator[tuple[int, list[tuple[str, int]]]]:
        """Runs of tokens for a page, which end with a line or a sentence if they can.

        Each is where it begins, and its tokens with their shades.
        """
        levels = self.levels.tolist()
        start = 0
        while start < len(self.pieces):
            stop = self._chunk_end(start)
            yield start, [(visible(piece), level) for piece, level in zip(self.pieces[start:stop], levels[start:stop])]
            start = stop

    def _chunk_end(self, start: int) -> int:
        """The end of a line that is near, or of a sentence, or neither where there is none."""
        usual, most = (min(start + n, len(self.pieces)) for n in (_CHUNK, 2 * _CHUNK))
        if usual == len(self.pieces):
            return usual
        later, earlier = range(usual, most + 1), range(usual, start + _CHUNK // 2, -1)
        for ends, where in (("\n", later), ("\n", earlier), ((".", "!", "?"), earlier)):
            for end in where:
                if self.pieces[end - 1].endswith(ends):
                    return end
        return usual

    def data(self) -> dict[str, Any]:
        """The numbers of each token, for a page's script."""
        data: dict[str, Any] = {"of": self.n_cell_lists, "held": self.held.tolist()}
        for name, values in (("log_beta", self.log_beta), ("kl", self.kl)):
            if values is not None:
                data[name] = [float(f"{value:.3g}") for value in values]
        return data | (self.recalls.data() if self.recalls is not None else {})


def visible(piece: str) -> str:
    """A token as a page shows it: special tokens and parts of a character as a dot, ends of lines with a sign."""
    return piece.replace("\r", "").replace("\n", "⏎\n") or "·"


def text_picture(text: ColouredText, name: str) -> Picture:
    """The beginning of a text in a fixed-width font, as far as it fits."""
    from matplotlib.patches import Rectangle

    parts = list(_on_grid(text.pieces))
    n_rows, shades = parts[-1][1] + 1, np.take(OPACITIES, text.levels)
    with styled(**{"axes.grid": False, "font.family": "DejaVu Sans Mono"}):
        figure = new_figure(width=8.4, height=0.4 + 0.165 * n_rows)
        axes = figure.add_subplot()
        axes.set_axis_off()
        axes.set(xlim=(0, _COLUMNS), ylim=(n_rows, -0.1))
        for column, row, token, part in parts:
            colour = "black" if shades[token] else _GONE
            axes.add_patch(Rectangle((column, row), len(part), 0.95, facecolor=_HELD, alpha=shades[token], linewidth=0))
            axes.text(column, row + 0.5, shown(part), fontsize=9.6, va="center", color=colour, parse_math=False)
        axes.set_title(
            f"tokens 1 to {parts[-1][2] + 1:,} of {len(text.pieces):,}: the darker, the more of the {text.n_cell_lists}"
            " heads hold it",
            family="DejaVu Sans",
        )
    return Picture(name, "What is left of the text", "", figure)


def _on_grid(pieces: Sequence[str]) -> Iterator[tuple[int, int, int, str]]:
    """Column, row, token and text of what fits the picture; a token that does not fit its line begins the next one."""
    column = row = 0
    for token, piece in enumerate(pieces):
        for line in visible(piece).splitlines():
            for start in range(0, len(line), _COLUMNS):
                part = line[start : start + _COLUMNS]
                if column + len(part) > _COLUMNS:
                    column, row = 0, row + 1
                if row == _ROWS:
                    return
                yield column, row, token, part
                column += len(part)
            if line.endswith("⏎"):
                column, row = 0, row + 1
