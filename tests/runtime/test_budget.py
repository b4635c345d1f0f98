"""Reading a budget."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retain_local.errors import UsageError
from retain_local.options.budget import parse_budget

N_CTX, BYTES_PER_TOKEN, N_ROOM = 4096, 1000, 128


def parse(value: int | str | None, n_ctx: int = N_CTX) -> int:
    return parse_budget(value, n_ctx=n_ctx, bytes_per_token=BYTES_PER_TOKEN, n_room=N_ROOM)


@pytest.mark.parametrize(
    "value, cells",
    [
        (None, 2048),
        (1, 1),
        (4096, 4096),
        ("2048", 2048),
        (" 300 ", 300),
        ("25%", 1024),
        ("12.5 %", 512),
        ("1/4", 1024),
        (" 1 / 3 ", 1365),
        ("0.5/1", 2048),
        (np.int64(300), 300),
        ("100%", 4096),
        ("1MB", 1000 - N_ROOM),
        ("1MiB", 1048 - N_ROOM),
        ("1.5 mib", 1572 - N_ROOM),
        ("512KiB", 524 - N_ROOM),
        ("200000B", 200 - N_ROOM),
        ("1GiB", 4096),  # more than the context can fill
    ],
)
def test_every_form(value: int | str | None, cells: int) -> None:
    assert parse(value) == cells


def test_default_is_no_longer_than_the_context() -> None:
    assert parse(None, n_ctx=512) == 512


@pytest.mark.parametrize(
    "value, message",
    [
        (0, "at least 1"),
        (-5, "at least 1"),
        ("0", "at least 1"),
        ("0%", "more than 0 and at most 1"),
        ("0.01%", "at least 1"),
        ("-5", "not a number of cells"),
        ("", "not a number of cells"),
        ("many", "not a number of cells"),
        ("1e9", "not a number of cells"),
        ("nan", "not a number of cells"),
        ("2048.5", "not a whole number"),
        (True, "not a number of cells"),
        (4097, "more than the context of 4096 tokens"),
        ("999999999999999999999", "more than any context can fill"),
        (10**500, "more than any context can fill"),
        ("9" * 50, "not a number of cells"),
        ("101%", "more than 0 and at most 1"),
        ("5/4", "more than 0 and at most 1"),
        ("1/0", "divides by zero"),
        ("0.5", "a share is written as 1/4 or 25%"),
        (0.5, "not a number of cells"),
        (math.nan, "not a number of cells"),
        ([64], "not a number of cells"),
        ("5 apples", "unknown unit 'apples'"),
        ("100KB", "is too small: with 128 tokens of room over the budget this model needs 129000 bytes"),
    ],
)
def test_what_is_no_budget(value: int | str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(value)


@given(st.text() | st.integers())
def test_anything_is_a_budget_or_one_line(value: int | str) -> None:
    try:
        assert 1 <= parse(value) <= N_CTX
    except UsageError as error:
        assert "\n" not in str(error).replace(repr(value), "")
