"""Reading a pickle that may come from anywhere: it can build containers and tensors, and nothing else.

Python's own unpickler, even with its globals restricted, still hashes and compares what a file makes it build, so a
file of a few hundred bytes can keep it busy for ever. This one never calls, imports or hashes what a file names: it
goes through the opcodes that `pickletools.genops` finds, knows those that a state dict needs, and puts strings,
numbers, tuples, lists and dicts on a stack. The few globals that may be named stand for functions given by the caller.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import Any

MAX_BYTES, MAX_OPCODES = 1 << 24, 1 << 20  # some 30 steps make a tensor
MAX_TEXT, MAX_INT = 4096, 1 << 63

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
_BYTES = {"BINBYTES", "SHORT_BINBYTES"}  # of NumPy arrays
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS, _GETS = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"BINGET", "LONG_BINGET"}
_IGNORED = {"PROTO", "FRAME", "STOP"}

_MARK = object()
_LEFT_OUT = object()  # stands for what is no part of a tensor: bytes, and long texts


class UnpickleError(ValueError):
    """A pickle is damaged, too large, or asks for something that is not allowed; the message says which."""


class Global:
    """A global of the allow-list: `build` makes what a call of it stands for; None: it is only named, never called."""

    __slots__ = ("build", "name")

    def __init__(self, name: str, build: Callable[..., Any] | None = None) -> None:
        self.name, self.build = name, build


def unpickle(data: bytes, allowed: Mapping[str, Global], load: Callable[[Any], Any]) -> Any:
    """Build the object that a pickle describes.

    Parameters
    ----------
    data : the pickle.
    allowed : the globals that it may name, by "module.name".
    load : makes the object of a persistent id; ids come from the file, so it must check all of theirs.

    Returns
    -------
    str, int, float, bool, None, a tuple, list or dict of these, or what `allowed` and `load` made.

    Raises
    ------
    UnpickleError : see there. `load` and the `build` functions may raise it too.
    """
    if len(data) > MAX_BYTES:
        raise UnpickleError(f"its pickle has {len(data):,} bytes, which is too much for a list of tensors")
    machine = _Machine(allowed, load)
    try:
        for n, (opcode, argument, _at) in enumerate(pickletools.genops(data)):
            if n >= MAX_OPCODES:
                raise UnpickleError(f"its pickle has more than {MAX_OPCODES:,} steps")
            machine.step(opcode.name, argument)
        return machine.result()
    except UnpickleError:
        raise
    except (ValueError, LookupError, TypeError) as error:  # genops on bytes that are no pickle; an empty stack
        raise UnpickleError(f"its pickle is damaged ({error})") from None


class _Machine:
    """The stack and the memo of a pickle."""

    def __init__(self, allowed: Mapping[str, Global], load: Callable[[Any], Any]) -> None:
        self.allowed, self.load = allowed, load
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Do what one opcode says."""
        stack = self.stack
        if name in _PUTS:
            self.memo[len(self.memo) if argument is None else argument] = stack[-1]
        elif name in _GETS:
            stack.append(self.memo[argument])
        elif name in _VALUES:
            stack.append(_small(argument))
        elif name in _BYTES:
            stack.append(_LEFT_OUT)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "TUPLE":
            stack.append(tuple(self.pop_to_mark()))
        elif name in _TUPLES:
            stack.append(tuple(self.pop(_TUPLES[name])))
        elif name in ("SETITEM", "SETITEMS"):
            self.set_items(self.pop(2) if name == "SETITEM" else self.pop_to_mark())
        elif name in ("APPEND", "APPENDS"):
            items = self.pop(1) if name == "APPEND" else self.pop_to_mark()
            self.top(list).extend(items)
        elif name == "GLOBAL":
            stack.append(self.find(argument.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            stack.append(self.find(_joined(*self.pop(2))))
        elif name == "REDUCE":
            stack.append(_call(*self.pop(2)))
        elif name == "BINPERSID":
            stack.append(self.load(*self.pop(1)))
        elif name == "BUILD":  # attributes of a state dict's class (`_metadata`), which are not needed
            self.pop(1)
            self.top(dict)
        elif name not in _IGNORED:
            raise UnpickleError(f"its pickle uses {name}, which a list of tensors does not need")

    def pop(self, n: int) -> list[Any]:
        items = self.stack[-n:]
        if len(items) < n or any(item is _MARK for item in items):
            raise UnpickleError("its pickle is damaged (nothing left on the stack)")
        del self.stack[-n:]
        return items

    def pop_to_mark(self) -> list[Any]:
        items = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def top(self, kind: type) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise UnpickleError(f"its pickle is damaged (no {kind.__name__} where one is filled)")
        return self.stack[-1]

    def set_items(self, items: list[Any]) -> None:
        keys, values = items[::2], items[1::2]
        if len(keys) != len(values) or not all(type(key) is str for key in keys):
            raise UnpickleError("its pickle has a dict whose keys are not names")
        self.top(dict).update(zip(keys, values))

    def find(self, name: str) -> Global:
        if name not in self.allowed:
            raise UnpickleError(f"its pickle names {name[:80]!r}, which no tensor is made with; nothing of it was run")
        return self.allowed[name]

    def result(self) -> Any:
        if len(self.stack) != 1 or self.stack[0] is _MARK:
            raise UnpickleError("its pickle is damaged (something is left over)")
        return self.stack[0]


def _joined(module: Any, name: Any) -> str:
    # to write a list out can take for ever: one of two lists, both of them one of two lists, and so on
    if type(module) is not str or type(name) is not str:
        raise UnpickleError("its pickle is damaged (a global without a name)")
    return f"{module}.{name}"


def _small(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return (
            _LEFT_OUT  # as which pickle writes the numbers of a NumPy array; as a name it is refused where it is used
        )
    if isinstance(value, int) and not -MAX_INT <= value < MAX_INT:
        raise UnpickleError("its pickle has a number of more than 64 bits")
    return value


def _call(function: Any, arguments: Any) -> Any:
    if type(function) is not Global or function.build is None or type(arguments) is not tuple:
        raise UnpickleError("its pickle calls something that makes no tensor; nothing of it was run")
    return function.build(*arguments)
