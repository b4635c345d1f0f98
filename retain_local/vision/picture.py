"""A picture as a model reads it, and the tokens that stand for it in a text.

A text with pictures is a list of tokens like any other: a picture of n tokens is n numbers below 0, which no vocabulary
has. They are made from a hash of what the picture is, so that two texts hold the same picture exactly where they hold the
same numbers, in every process and file.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import RetainError

_START = 4  # tokens that tell a picture from all others: 124 bits of a hash

Encode = Callable[[], npt.NDArray[np.float32]]


class Picture:
    """A picture, or one of the tiles that a projector cuts one into.

    Parameters
    ----------
    digest : SHA-256 of the picture's file, of its place among the tiles, and of the projector that reads it.
    positions : for its first token at position 0, int32 [n_axes, n_tokens]; n_axes is 4 with M-RoPE, else 1.
    steps : how much of the position of its first token each of these takes on, int32 [n_axes, n_tokens].
    n_positions : how far it moves the position of what follows.
    is_causal : its tokens see those before them alone; else they see each other, and are computed at once.
    encode : makes the embeddings, float32 [n_tokens, n_embd]; called once, when they are needed.

    Attributes
    ----------
    tokens : tuple of int
        What stands for it in a text: one negative number for each of its tokens.
    """

    def __init__(
        self,
        digest: bytes,
        positions: npt.NDArray[np.int32],
        steps: npt.NDArray[np.int32],
        n_positions: int,
        is_causal: bool,
        encode: Encode,
    ) -> None:
        self.digest, self.n_positions, self.is_causal = digest, n_positions, is_causal
        self._positions, self._steps = positions, steps
        self._encode: Encode | None = encode
        self._embeddings: npt.NDArray[np.float32] | None = None
        drawn = np.frombuffer(hashlib.shake_256(digest).digest(4 * self.n_tokens), "<u4")
        self.tokens = tuple((-1 - (drawn & 0x7FFFFFFF).astype(np.int64)).tolist())

    @property
    def n_tokens(self) -> int:
        return self._positions.shape[1]

    def positions(self, start: int) -> npt.NDArray[np.int32]:
        """Positions of its tokens when it begins at position `start`, int32 [n_axes, n_tokens]."""
        return self._positions + self._steps * np.int32(start)

    @property
    def embeddings(self) -> npt.NDArray[np.float32]:
        """What the text model reads in place of embeddings of tokens, float32 [n_tokens, n_embd].

        Raises
        ------
        RetainError : the projector cannot read the picture.
        """
        if self._embeddings is None:
            assert self._encode is not None
            self._embeddings = self._encode()
            self._encode = None  # and with it the pixels
        return self._embeddings

    def __getstate__(self) -> dict[str, Any]:
        # another process has no projector to make them
        return vars(self) | {"_embeddings": self.embeddings, "_encode": None}


class PictureBook:
    """The pictures that somebody holds, to be found by their tokens.

    A picture that nobody holds is forgotten. Whoever keeps a list of tokens to read it again keeps its pictures as well:
    `of` has them.
    """

    def __init__(self) -> None:
        self._by_digest: weakref.WeakValueDictionary[bytes, Picture] = weakref.WeakValueDictionary()
        self._by_start: weakref.WeakValueDictionary[tuple[int, ...], Picture] = weakref.WeakValueDictionary()

    def add(self, picture: Picture) -> Picture:
        """The picture of this digest that is known already, or this one."""
        known = self._by_digest.setdefault(picture.digest, picture)
        self._by_start[known.tokens[:_START]] = known
        return known

    def find(self, digest: bytes) -> Picture | None:
        """The picture of a digest; None where nobody holds it."""
        return self._by_digest.get(digest)

    def of(self, tokens: Sequence[int]) -> tuple[Picture, ...]:
        """The pictures of a text, in their order.

        Raises
        ------
        RetainError : as `places`.
        """
        return tuple(picture for _, picture in self.places(tokens))

    def places(self, tokens: Sequence[int]) -> Iterator[tuple[int, Picture]]:
        """Where the pictures of a text begin, and which they are.

        Raises
        ------
        RetainError : negative numbers that are no whole picture somebody holds.
        """
        negative = np.flatnonzero(np.asarray(tokens, np.int64) < 0).tolist()
        i = 0
        while i < len(negative):
            picture = self._at(tokens, negative[i])
            yield negative[i], picture
            i += picture.n_tokens

    def _at(self, tokens: Sequence[int], start: int) -> Picture:
        for n in range(_START, 0, -1):
            picture = self._by_start.get(tuple(int(token) for token in tokens[start : start + n]))
            if picture is not None:
                found = tuple(int(token) for token in tokens[start : start + picture.n_tokens])
                if found == picture.tokens:
                    return picture
        raise RetainError(
            f"{int(tokens[start])} is neither a token nor the beginning of a whole picture; read the picture again"
        )
