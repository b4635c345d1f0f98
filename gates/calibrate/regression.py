"""Ridge regression of many layers at once, in sums that do not grow with the number of samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class RidgeSums:
    """Sums of x·xᵀ and x·yᵀ of each layer, x with a constant 1 behind it.

    Parameters
    ----------
    n_in : length of x, the same in every layer.
    n_outs : length of y, for each layer.

    Attributes
    ----------
    square : float32 [n_layer, n_in + 1, n_in + 1]
    cross : for each layer float32 [n_in + 1, n_out]
    """

    def __init__(self, n_in: int, n_outs: Sequence[int]) -> None:
        self.square = np.zeros((len(n_outs), n_in + 1, n_in + 1), np.float32)
        self.cross = [np.zeros((n_in + 1, n_out), np.float32) for n_out in n_outs]

    def add(self, layer: int, x: Floats, y: Floats) -> None:
        """Take in samples of a layer: x [n, n_in], y [n, n_out]."""
        x = np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1)
        self.square[layer] += x.T @ x
        self.cross[layer] += x.T @ y

    def solve(self, ridge: float) -> list[tuple[Floats, Floats]]:
        """Weight [n_out, n_in] and bias [n_out] of each layer, float32.

        They minimise the squared error and `ridge` times the squares of the weights, each weighted by the mean square of
        its input: so the scale of an input makes no difference. The bias is free.
        """
        found = []
        for square, cross in zip(self.square, self.cross):
            penalised = square.astype(np.float64)
            diagonal = penalised.diagonal().copy()
            # an input that is always 0 gets no weight
            diagonal[:-1] += ridge * diagonal[:-1] + 1e-6 * diagonal[-1]
            np.fill_diagonal(penalised, diagonal)
            solution = np.linalg.solve(penalised, cross.astype(np.float64)).astype(np.float32)
            found.append((np.ascontiguousarray(solution[:-1].T), solution[-1].copy()))
        return found
