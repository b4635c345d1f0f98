"""Shares and intervals as the tables write them."""

from __future__ import annotations

from .points import Interval


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def signed(share: float) -> str:
    """Percentage points with their sign; a true minus, and none before a zero."""
    text = f"{100 * share:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def span(interval: Interval) -> str:
    return f"{percent(interval[1])}–{percent(interval[2])}"


def signed_span(interval: Interval) -> str:
    return f"{signed(interval[1])} to {signed(interval[2])}"
