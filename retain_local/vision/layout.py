"""Where the pictures of a text stand, in tokens and in positions.

Tokens are counted one by one; positions are what RoPE and the cache know them by. They are the same for text. With M-RoPE
(Qwen2-VL, arXiv 2409.12191) all tokens of a picture share one position in time, and what follows goes on after its longer
side: a picture of 1,000 tokens may take 32 positions.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .picture import Picture, PictureBook


@dataclass(frozen=True)
class Placed:
    """A picture in a text: its tokens are [start, stop), and the first of them is at `position`."""

    picture: Picture
    start: int
    position: int

    @property
    def stop(self) -> int:
        return self.start + self.picture.n_tokens

    @property
    def positions(self) -> tuple[int, int]:
        """The positions [start, stop) that it takes."""
        return self.position, self.position + self.picture.n_positions


class Layout:
    """The pictures of a text, from its start on.

    Attributes
    ----------
    placed : tuple of Placed
    """

    def __init__(self, places: Iterable[tuple[int, Picture]] = ()) -> None:
        placed, shift = [], 0
        for start, picture in places:
            placed.append(Placed(picture, start, start + shift))
            shift += picture.n_positions - picture.n_tokens
        self.placed = tuple(placed)
        self._starts = [one.start for one in placed]

    @classmethod
    def of(cls, tokens: Sequence[int], book: PictureBook) -> Layout:
        """The layout of a text.

        Raises
        ------
        RetainError : it holds a picture that nobody keeps.
        """
        return cls(book.places(tokens))

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return tuple(one.picture for one in self.placed)

    def at(self, n: int) -> Placed | None:
        """The picture that token n is of."""
        i = bisect_right(self._starts, n) - 1
        return self.placed[i] if i >= 0 and n < self.placed[i].stop else None

    def position(self, n: int) -> int:
        """The position of token n; within a picture that of its first token."""
        i = bisect_right(self._starts, n) - 1
        if i < 0:
            return n
        one = self.placed[i]
        return one.position if n < one.stop else one.positions[1] + n - one.stop

    def last_position(self, n: int) -> int:
        """The highest position of the first n tokens, as the cache counts them; -1 without any."""
        one = self.at(n - 1)
        return self.position(n) - 1 if one is None else int(one.picture.positions(one.position)[0].max())

    def token(self, position: int) -> int:
        """The first place where a text can be cut whose position is `position` or more."""
        n = position
        for one in self.placed:
            if position <= one.position:
                break
            n = one.stop + max(0, position - one.positions[1])
        return n

    def place_before(self, n: int) -> int:
        """The last place, at most n, where the text can be cut: a picture is whole or not there."""
        one = self.at(n)
        return n if one is None else one.start

    def cut(self, n: int) -> Layout:
        """The layout of the first n tokens."""
        if not self.placed or n >= self.placed[-1].stop:
            return self
        return Layout((one.start, one.picture) for one in self.placed if one.stop <= n)

    def extended(self, n: int, tokens: Sequence[int], book: PictureBook) -> Layout:
        """The layout of the first n tokens, which end with no part of a picture, and these after them.

        Raises
        ------
        RetainError : as `of`.
        """
        before = self.cut(n)
        if not tokens or min(tokens) >= 0:
            return before
        kept = [(one.start, one.picture) for one in before.placed]
        return Layout([*kept, *((n + start, picture) for start, picture in book.places(tokens))])

    def last_edge(self, n: int) -> int:
        """The last place, at most n, where a picture begins or ends; 0 before the first."""
        i = bisect_right(self._starts, n) - 1
        if i < 0:
            return 0
        return self.placed[i].stop if self.placed[i].stop <= n else self.placed[i].start

    def next_edge(self, n: int, stop: int) -> int:
        """Where tokens from n on, up to `stop` at most, must end to be computed at once.

        Text and a picture cannot be, and a picture that is not causal must be.
        """
        one = self.at(n)
        if one is not None:
            return min(stop, one.stop) if one.picture.is_causal else one.stop
        i = bisect_right(self._starts, n)
        return min(stop, self._starts[i]) if i < len(self._starts) else stop
