"""Confidence intervals of a mean score, and of a difference of two, where questions come in groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Z = 1.959964  # of a normal distribution, 95%

Groups = Sequence[Sequence[float]]


def mean_interval(groups: Groups) -> tuple[float, float, float]:
    """Mean of scores from 0 to 1, and its 95% interval (Wilson, 1927).

    Questions about one conversation share its text, so they are not independent. The number of questions in Wilson's
    formula is divided by the design effect: how many times as much the mean varies as that of independent questions.

    Parameters
    ----------
    groups : scores of each conversation; none is empty.

    Returns
    -------
    mean, low, high
    """
    values = np.concatenate([np.asarray(group, float) for group in groups])
    mean = float(values.mean())
    variance = _variance(groups)
    n = mean * (1 - mean) / variance if variance else len(values)
    center = (mean + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * np.sqrt(mean * (1 - mean) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return mean, float(max(0.0, center - half)), float(min(1.0, center + half))


def normal_interval(groups: Groups) -> tuple[float, float, float]:
    """Mean of any numbers, and its 95% interval from a normal distribution; see `mean_interval` for the groups."""
    mean = float(np.concatenate([np.asarray(group, float) for group in groups]).mean())
    half = float(Z * np.sqrt(_variance(groups)))
    return mean, mean - half, mean + half


def paired_difference(first: Groups, second: Groups) -> tuple[float, float, float]:
    """Mean of first minus second over the same questions in the same groups, and its 95% interval.

    One made-up question, half of it won and half of it lost, is part of the interval (Agresti & Min, 2005): that no
    question was answered differently does not show that none ever is.
    """
    groups = [[a - b for a, b in zip(x, y)] for x, y in zip(first, second)]
    values = np.concatenate([np.asarray(group, float) for group in groups])
    mean = float(values.mean())
    half = float(Z * np.sqrt(_variance(groups) + 1 / len(values) ** 2))
    return mean, max(-1.0, mean - half), min(1.0, mean + half)


def _variance(groups: Groups) -> float:
    """Variance of the mean over all values: that of groups drawn at random, or of values, whichever is more."""
    sums: npt.NDArray[np.float64] = np.array([sum(group) for group in groups], float)
    counts: npt.NDArray[np.float64] = np.array([len(group) for group in groups], float)
    values = np.concatenate([np.asarray(group, float) for group in groups])
    mean, n = values.mean(), len(values)
    single = float(np.square(values - mean).sum()) / n**2
    if len(groups) < 2:
        return single
    grouped = float(np.square(sums - mean * counts).sum()) * len(groups) / (len(groups) - 1) / n**2
    return max(single, grouped)
