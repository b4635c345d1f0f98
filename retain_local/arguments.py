"""What `Llama` can be given: names that it knows, and numbers that llama.cpp can take."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from .errors import UsageError
from .options import option_name, whole_number

_INT = 2**31 - 1
_MOST_TOKENS = 2**24 - 1  # of a batch

# whole numbers of the parent and the range of each; those of the cache are in `options`
_WHOLE = {
    "n_ctx": (0, _INT),
    "n_batch": (1, _MOST_TOKENS),
    "n_ubatch": (1, _MOST_TOKENS),
    "n_threads": (0, 2**16),
    "n_threads_batch": (0, 2**16),
    "n_gpu_layers": (-1, _INT),
    "main_gpu": (0, _INT),
    "seed": (-1, 2**32 - 1),
    "last_n_tokens_size": (0, _MOST_TOKENS),
    "yarn_orig_ctx": (0, _INT),
}
# numbers and the least that each may be
_REAL = {
    "rope_freq_base": 0.0,
    "rope_freq_scale": 0.0,
    "yarn_ext_factor": -math.inf,
    "yarn_attn_factor": -math.inf,
    "yarn_beta_fast": -math.inf,
    "yarn_beta_slow": -math.inf,
    "lora_scale": -math.inf,
}


def check_names(given: Collection[str], known: Collection[str]) -> None:
    """Raise UsageError for an argument that is not known, with the name that is most like it."""
    for name in given:
        if name not in known:
            near = get_close_matches(name, sorted(known), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "; docs/python.md lists what there is"
            raise UsageError(f"Llama takes no argument {name!r}{hint}")


def checked_numbers(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with every number as Python's own; None stays.

    Raises
    ------
    UsageError : a number that is none, or out of range.
    """
    found = dict(arguments)
    for name, value in arguments.items():
        if value is None:
            continue
        if name in _WHOLE:
            found[name] = whole_number(name, value, *_WHOLE[name])
        elif name in _REAL:
            found[name] = _real_number(name, value, _REAL[name])
    return found


def _real_number(name: str, value: Any, least: float) -> float:
    try:
        number = math.nan if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number >= least):
        at_least = "" if least == -math.inf else f" of at least {least:g}"
        raise UsageError(f"{option_name(name)} is {value!r}; it must be a number{at_least}")
    return number
