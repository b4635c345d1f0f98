"""Confidence intervals of scores that come in groups."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from retain_local.evaluation.intervals import (
    mean_interval,
    normal_interval,
    paired_difference,
)


@pytest.mark.parametrize("right, n", [(0, 40), (40, 40), (4, 100), (383, 400), (200, 400)])
def test_of_single_questions_it_is_wilsons(right: int, n: int) -> None:
    groups = [[1.0]] * right + [[0.0]] * (n - right)
    wilson = binomtest(right, n).proportion_ci(method="wilson")
    mean, low, high = mean_interval(groups)
    # a variance from groups has n - 1 in its denominator
    assert mean == pytest.approx(right / n)
    assert (low, high) == pytest.approx((wilson.low, wilson.high), abs=0.002)


def test_questions_that_agree_within_a_group_tell_as_much_as_one() -> None:
    rng = np.random.default_rng(0)
    answers = rng.random(60) < 0.8
    single = mean_interval([[float(answer)] for answer in answers])
    repeated = mean_interval([[float(answer)] * 8 for answer in answers])
    assert repeated == pytest.approx(single)


def test_independent_questions_in_groups_tell_as_much_as_alone() -> None:
    answers = (np.random.default_rng(1).random(800) < 0.8).astype(float)
    grouped, alone = mean_interval(answers.reshape(100, 8)), mean_interval(answers.reshape(800, 1))
    assert grouped[2] - grouped[1] == pytest.approx(alone[2] - alone[1], rel=0.15)


@pytest.mark.parametrize("share, correlated", [(0.5, False), (0.95, False), (0.8, True), (0.99, False)])
def test_it_holds_the_truth_19_times_in_20(share: float, correlated: bool) -> None:
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(1000):
        # correlated: each text is easy or hard
        p = rng.beta(share * 4, (1 - share) * 4, size=(60, 1)) if correlated else np.full((60, 1), share)
        _, low, high = mean_interval((rng.random((60, 8)) < p).astype(float))
        held += low <= share <= high
    assert 0.92 <= held / 1000 <= 0.99


def test_a_difference_is_paired() -> None:
    rng = np.random.default_rng(3)
    full = (rng.random((60, 8)) < 0.7).astype(float)
    worse = full * (rng.random((60, 8)) < 0.95)
    mean, low, high = paired_difference(worse, full)
    assert mean == pytest.approx(worse.mean() - full.mean())
    assert low < mean < high < 0
    assert high - low < 0.5 * (mean_interval(worse)[2] - mean_interval(worse)[1])
    assert paired_difference(full, worse) == pytest.approx((-mean, -high, -low))


def test_no_difference_in_few_questions_is_not_known_exactly() -> None:
    few, many = [[1.0]] * 10, [[1.0]] * 1000
    assert paired_difference(few, few) == pytest.approx((0, -0.196, 0.196), abs=1e-3)
    assert paired_difference(many, many) == pytest.approx((0, -0.00196, 0.00196), abs=1e-5)


def test_a_difference_holds_the_truth_19_times_in_20() -> None:
    rng = np.random.default_rng(4)
    held = 0
    for _ in range(1000):
        full = (rng.random((60, 8)) < 0.9).astype(float)
        small = np.where(rng.random((60, 8)) < 0.1, rng.random((60, 8)) < 0.4, full)
        _, low, high = paired_difference(small, full)
        held += low <= 0.1 * (0.4 - 0.9) <= high
    assert 0.92 <= held / 1000 <= 0.99


def test_of_any_numbers() -> None:
    """Alone it is mean ± 1.96 standard errors; numbers that are alike within a group tell as much as one of them."""
    values = np.random.default_rng(2).exponential(size=200)
    error = 1.959964 * values.std(ddof=1) / np.sqrt(len(values))
    mean, low, high = normal_interval([[value] for value in values])
    assert (low, mean, high) == pytest.approx((values.mean() - error, values.mean(), values.mean() + error))
    assert normal_interval([[value] * 8 for value in values]) == pytest.approx((mean, low, high))
