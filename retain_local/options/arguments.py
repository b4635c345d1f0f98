"""What `Llama` can be given: names that it knows, and numbers that llama.cpp can take."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from ..errors import UsageError
from .table import Option, options_of, real_number, whole_number

T = TypeVar("T")

_INT = 2**31 - 1

# whole numbers of the parent and the range of each; those of the tables of options are checked there
_WHOLE = {
    "n_threads_batch": (0, 2**16),
    "main_gpu": (0, _INT),
    "seed": (-1, 2**32 - 1),
    "last_n_tokens_size": (0, 2**24 - 1),
    "yarn_orig_ctx": (0, _INT),
}
_REAL = {
    "rope_freq_scale": Option("", "", float, least=0),
    **dict.fromkeys(
        ("yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow", "lora_scale"), Option("", "", float)
    ),
}


def check_names(given: Collection[str], known: Collection[str], whose: str = "Llama") -> None:
    """Raise UsageError for an argument that a class does not know, with the name that is most like it."""
    for name in given:
        if name not in known:
            near = get_close_matches(name, sorted(known), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "; docs/python.md lists what there is"
            raise UsageError(f"{whose} takes no argument {name!r}{hint}")


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
            found[name] = whole_number(name.replace("_", "-"), value, *_WHOLE[name])
        elif name in _REAL:
            found[name] = real_number(name.replace("_", "-"), value, _REAL[name])
    return found


def split(table: type[T], given: Mapping[str, Any]) -> tuple[T, dict[str, Any]]:
    """A table made of those of the given arguments that it has, and the rest of them.

    Raises
    ------
    UsageError : a value is not what its option takes.
    """
    names = {one.name for one, _ in options_of(table)}
    mine = {name: value for name, value in given.items() if name in names}
    return table(**mine), {name: value for name, value in given.items() if name not in names}
