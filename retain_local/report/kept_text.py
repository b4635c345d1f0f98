"""What a cache kept of one text, as a part of a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..options.budget import Budget
from . import measures
from .coloured_text import ColouredText, text_picture
from .recall_pictures import recall_picture
from .recalls import Recalls
from .recorder import HELD, Trace
from .retention_pictures import retention_pictures
from .style import Picture


@dataclass(frozen=True)
class KeptText:
    """One text in one cache.

    name : for files and anchors, unique in a page.
    title : the method and its budget.
    numbers : in words, what was kept.
    """

    name: str
    title: str
    numbers: str
    pictures: list[Picture]
    text: ColouredText

    def anchor(self, token: int) -> str:
        """Of the run of tokens that a token is in, or of the last one."""
        start = [start for start, _ in self.text.chunks() if start <= token][-1]
        return f"{self.name}-{start}"

    def files(self) -> Iterator[Picture]:
        """All pictures, the text among them."""
        yield from self.pictures
        yield text_picture(self.text, f"{self.name}-text")


def name_budget(budget: Budget, cells: int) -> str:
    """A budget as it was asked for, with its cells where it is a share."""
    return f"budget {budget}" if budget.share is None else f"budget {budget} ({cells:,} cells a head)"


def make_kept_text(
    name: str,
    title: str,
    trace: Trace,
    pieces: Sequence[str],
    kl: npt.NDArray[np.float64] | None = None,
    of_picture: npt.NDArray[np.bool_] | None = None,
    recalls: Recalls | None = None,
) -> KeptText:
    """Draw a trace.

    Parameters
    ----------
    pieces : text of each token.
    kl : see `ColouredText`.
    of_picture : which tokens are of pictures, [n].
    recalls : what was recalled of the text; None where nothing can be.
    """
    log_beta = trace.log_beta.mean(axis=0, dtype=np.float64) if trace.log_beta is not None else None
    text = ColouredText(pieces, measures.held_by(trace), len(trace.cell_lists), log_beta, kl, recalls)
    cells = int(measures.cells_of(trace).sum())
    numbers = (
        f"{trace.n_tokens:,} tokens were read; {cells:,} of {trace.evicted_at.size:,} cells are left."
        f" {text.n_gone:,} tokens are held by no head, {text.n_whole:,} by all {text.n_cell_lists:,}."
    )
    if of_picture is not None and of_picture.any():
        left = int((trace.evicted_at[:, of_picture] == HELD).sum())
        numbers += f" Of pictures (▦) {left:,} of {int(of_picture.sum()) * len(trace.cell_lists):,} cells are left."
    pictures = retention_pictures(trace, name)
    if recalls is not None and recalls.by_token.any():
        pictures.append(recall_picture(recalls, name))
        numbers += (
            f" {int(recalls.by_token.sum()):,} times a cell was recalled from the archive, of"
            f" {int(np.count_nonzero(recalls.by_token)):,} tokens."
        )
    return KeptText(name, title, numbers, pictures, text)
