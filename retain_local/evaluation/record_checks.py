"""Whether what a file of results says can be a result: names, counts and numbers that the tables can be made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..terminal.safe_text import safe_line

_NAMES = ("arm", "method", "budget", "task")
_COUNTS = ("item", "n_prompt", "n_budget", "n_cells", "n_written", "bytes_peak", "bytes_pool")
_SECONDS = ("read_seconds", "write_seconds")
_NUMBERS_OF_TOKENS = ("kl", "nll")
_OPTIONAL = (*_NUMBERS_OF_TOKENS, "bytes_archived")
_MAX_NAME, _MAX_COUNT, _MAX_SECONDS = 1000, 2**53, 1e12
_MAX_NATS = 200.0  # of one token; far above what 32-bit logits give


def check_record(values: Any) -> dict[str, Any]:
    """The fields of a `Record`; ValueError unless each of them is there and can be what it says."""
    required = {*_NAMES, *_COUNTS, *_SECONDS, "scores", "replies"}
    if not isinstance(values, Mapping) or not required <= values.keys() <= required | set(_OPTIONAL):
        raise ValueError("fields are missing or unknown")
    for name in _NAMES:
        text = values[name]
        if not isinstance(text, str) or len(text) > _MAX_NAME or safe_line(text) != text:
            raise ValueError(f"{name} is no name")
    for name in (*_COUNTS, "bytes_archived"):
        value = values.get(name, 0)
        if type(value) is not int or not 0 <= value <= _MAX_COUNT:
            raise ValueError(f"{name} is no count")
    for name in _SECONDS:
        _check_number(name, values[name], 0, _MAX_SECONDS)
    _check_numbers("scores", values["scores"], 0, 1)
    if not values["scores"]:
        raise ValueError("there are no scores")
    if not isinstance(values["replies"], list) or not all(isinstance(reply, str) for reply in values["replies"]):
        raise ValueError("replies are no texts")
    for name in _NUMBERS_OF_TOKENS:
        _check_numbers(name, values.get(name, []), -1, _MAX_NATS)
    n_tokens = len(values.get("kl", []))
    if len(values.get("nll", [])) != n_tokens or n_tokens not in (0, len(values["scores"])):
        raise ValueError("kl, nll and scores are not of the same tokens")
    return dict(values)


def check_settings(settings: Any) -> dict[str, Any]:
    """What decided the results; ValueError unless it is a table of settings."""
    if not isinstance(settings, dict) or not isinstance(settings.get("parameters", {}), dict):
        raise ValueError("settings are no table")
    return settings


def _check_numbers(name: str, values: Any, least: float, most: float) -> None:
    if not isinstance(values, list):
        raise ValueError(f"{name} is no list")
    for value in values:
        _check_number(name, value, least, most)


def _check_number(name: str, value: Any, least: float, most: float) -> None:
    if type(value) not in (int, float) or not least <= value <= most:  # a NaN is in no range
        raise ValueError(f"{name} is no number from {least:g} to {most:g}")
