"""Options declared once: type, default, bounds, choices, help and group.

A table of options is a frozen dataclass whose fields are made by `option`. From it come the check of its values (`check`),
the options of the command line (`commands.options.takes`), the arguments of `Llama` and the tables of the docs.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, SupportsIndex

from ..errors import UsageError

MOST = 2**24 - 1  # of tokens and cells: more would overflow the 32-bit counts of cells


@dataclass(frozen=True)
class Option:
    """What is said of an option besides its type and default.

    help : a full sentence or more; called, where only the native library knows it.
    group : the heading that it stands under.
    kind : type of its value on the command line.
    least, most : bounds of a number; None: without.
    above : a bound that a number must be more than.
    choices : the words that it may be; called, as some are known to the native library alone.
    flag : its name on the command line without dashes, where that is not the field's.
    short : a letter that stands for it, as in -p.
    unset : what the default None means.
    rare : shown by --help-all and not by --help.
    inverted : a switch that is on by default: the flag turns it off.
    """

    help: str | Callable[[], str]
    group: str
    kind: type
    least: float | None = None
    most: float | None = None
    above: float | None = None
    choices: Callable[[], tuple[str, ...]] | None = None
    flag: str = ""
    short: str = ""
    unset: str = ""
    rare: bool = False
    inverted: bool = False

    def text(self) -> str:
        """The help, with what happens when the option is not given."""
        said = self.help if isinstance(self.help, str) else self.help()
        return f"{said} (default: {self.unset})" if self.unset else said


def option(default: Any, help: str | Callable[[], str], group: str, kind: type, **more: Any) -> Any:
    """A field of a table; `more` are fields of `Option`."""
    return field(default=default, metadata={"option": Option(help, group, kind, **more)})


def options_of(table: type) -> Iterator[tuple[Field[Any], Option]]:
    """The fields of a table and what is said of them, in order."""
    for found in fields(table):
        yield found, found.metadata["option"]


def flag_of(found: Field[Any], said: Option) -> str:
    """Name of an option on the command line, without its dashes."""
    return said.flag or found.name.replace("_", "-")


def check(table: Any) -> None:
    """Check the values of a table, and make every number Python's own.

    Raises
    ------
    UsageError : a value is not what its option takes; the message is one line.
    """
    for found, said in options_of(type(table)):
        value = getattr(table, found.name)
        if value is None and found.default is None:
            continue
        name = flag_of(found, said)
        if said.choices is not None:
            check_choice(name, value, said.choices())
        elif said.kind is bool:
            check_choice(name, value, (True, False))
        elif said.kind is int:
            least, most = (MOST if bound is None else int(bound) for bound in (said.least or 0, said.most))
            object.__setattr__(table, found.name, whole_number(name, value, least, most))
        elif said.kind is float:
            object.__setattr__(table, found.name, real_number(name, value, said))


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise UsageError unless a value is one of these, with the one that is most like it."""
    if any(value is choice or (value == choice and type(value) is type(choice)) for choice in choices):
        return
    near = get_close_matches(str(value), [choice for choice in choices if isinstance(choice, str)], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"{name} {value!r} is not one of {', '.join(map(str, choices))}{hint}")


def whole_number(name: str, value: object, least: int, most: int = MOST) -> int:
    """An option that is a whole number, of any integer type.

    Raises
    ------
    UsageError : it is none, or out of range.
    """
    try:
        number = operator.index(value) if isinstance(value, SupportsIndex) and not isinstance(value, bool) else None
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        shown = repr(value) if number is None or abs(number) < 2**64 else "a number of more than 64 bits"
        raise UsageError(f"{name} is {shown}; it must be a whole number from {least} to {most}")
    return number


def real_number(name: str, value: Any, said: Option) -> float:
    """An option that is a number.

    Raises
    ------
    UsageError : it is none, infinite, or out of the bounds.
    """
    try:
        number = math.nan if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    bounds = []
    if said.least is not None:
        bounds.append(f"{said.least:g}" if said.most is not None else f"of at least {said.least:g}")
    if said.above is not None:
        bounds.append(f"of more than {said.above:g}")
    if said.most is not None:
        bounds.append(f"to {said.most:g}")
    low = -math.inf if said.least is None else said.least
    high = math.inf if said.most is None else said.most
    if not (math.isfinite(number) and low <= number <= high and (said.above is None or number > said.above)):
        raise UsageError(f"{name} is {value!r}; it must be {' '.join(['a number', *bounds])}")
    return number
