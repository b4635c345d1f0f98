"""Who uses a model now. llama.cpp has no lock: two calls at once corrupt it, and a call after the end ends the process."""

from __future__ import annotations

import atexit
import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from ..errors import RetainError, UsageError

P = ParamSpec("P")
R = TypeVar("R")
Callback = Literal["eviction hook", "callback"]

_REFUSED: dict[Callback, str] = {
    "callback": "a callback cannot start another text with the model that calls it, or close it; return first",
    "eviction hook": "an eviction hook cannot use the cache that calls it, or close the model; return first",
}

_A_MOMENT = 1e-4  # seconds, enough for a thread that waits to be woken

_everyone: weakref.WeakSet[Usage] = weakref.WeakSet()
_everyone_lock = threading.Lock()
_leaver: int | None = None  # the thread that ends the interpreter, once it does
_ran_in_threads = False  # a model has computed in several threads, in this process or one that it was forked from
_lost_threads = False  # and those threads did not come along into this process, which would wait for them for ever


class Usage:
    """The calls on one model, in an order that it survives.

    - A turn is a whole text, or a step of an open stream: turns of several threads wait for each other.
    - A step is a native call, or several that belong together: steps of several threads wait for each other, also within
      turns. A long one gives way now and then, where others may look at the cache or steer it.
    - Reading is a call that needs the vocabulary alone: it waits for nobody, and only the end waits for it.

    A callback of the caller's runs in the middle of a turn, and an eviction hook in the middle of a step; neither can
    begin another.

    Attributes
    ----------
    changes : int
        Goes up whenever the text in the cache changes.
    n_threads : int
        Threads that the model computes in.

    Raises
    ------
    RetainError : from each, when the model is closed; from a step, in a process that was forked without the threads.
    UsageError : from a turn or the end inside a callback, and from a step inside an eviction hook.
    """

    def __init__(self) -> None:
        self.changes = 0
        self.n_threads = 1
        self._turn, self._step = threading.RLock(), threading.Condition()
        self._readers, self._no_reader = 0, threading.Condition()
        self._closed = False
        self._rests = False  # a step gives way
        self._calls_back = 0  # callbacks that run, one in another
        self._here = threading.local()  # which callback this thread is in
        with _everyone_lock:
            _everyone.add(self)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Use the model for a text."""
        self._refuse_inside("callback", "eviction hook")
        with self._turn:
            self._check_open()
            yield

    @contextmanager
    def step(self) -> Iterator[None]:
        """Use the model for one native call."""
        self._refuse_inside("eviction hook")
        if _another_thread_leaves():
            raise SystemExit  # ends this thread, without a word
        with self._step:
            self._check_open()
            self._check_threads()
            yield

    def give_way(self) -> None:
        """Within a step, let those of other threads go first that wait."""
        self._rests = True
        try:
            self._step.wait(_A_MOMENT)
        finally:
            self._rests = False
            self._step.notify_all()
        if _another_thread_leaves():
            raise SystemExit
        self._check_open()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Use what never changes."""
        with self._no_reader:
            self._check_open()
            self._readers += 1
        try:
            yield
        finally:
            with self._no_reader:
                self._readers -= 1
                self._no_reader.notify_all()

    @contextmanager
    def callback(self, kind: Callback = "callback") -> Iterator[None]:
        """Run code of the caller's."""
        outer = getattr(self._here, "callback", None)
        self._here.callback = kind
        self._calls_back += 1
        try:
            yield
        finally:
            self._calls_back -= 1
            self._here.callback = outer
        if _another_thread_leaves():
            raise SystemExit

    def guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of the caller's that runs as a callback."""

        @functools.wraps(function, assigned=())
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.callback():
                return function(*args, **kwargs)

        return call

    def end(self, free: Callable[[], None]) -> None:
        """Close the model when no call runs: later ones are refused. Does nothing the second time."""
        self._refuse_inside("callback", "eviction hook")
        if _another_thread_leaves():
            return
        with self._step:
            if self._closed:
                return
            self._closed = True
            self._step.wait_for(lambda: not self._rests)
            with self._no_reader:
                self._no_reader.wait_for(lambda: self._readers == 0)
            free()

    def _check_open(self) -> None:
        if self._closed:
            raise RetainError("the model is closed")

    def _check_threads(self) -> None:
        global _ran_in_threads
        if self.n_threads > 1:
            if _lost_threads:
                raise RetainError(
                    "this process was forked after a model ran in several threads, which it did not get: start it by"
                    " 'spawn' (multiprocessing.get_context), or load the model with n_threads=1 and n_threads_batch=1"
                )
            _ran_in_threads = True

    def _refuse_inside(self, *kinds: Callback) -> None:
        kind = getattr(self._here, "callback", None)
        if kind in kinds:
            raise UsageError(_REFUSED[kind])


def in_turn(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """A method whose whole run is a turn of `self._usage`."""

    @functools.wraps(method)
    def call(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._usage.turn():
            return method(self, *args, **kwargs)

    return call


def in_step(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """A method whose whole run is a step of `self._usage`."""

    @functools.wraps(method)
    def call(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._usage.step():
            return method(self, *args, **kwargs)

    return call


def _another_thread_leaves() -> bool:
    """Whether the interpreter ends: native code of other threads must not run when the process does."""
    return _leaver not in (None, threading.get_ident())


def _after_fork() -> None:
    global _lost_threads
    _lost_threads = _ran_in_threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _leave() -> None:
    """Wait for the native calls of daemon threads, which nobody else waits for."""
    global _leaver
    _leaver = threading.get_ident()
    with _everyone_lock:
        everyone = list(_everyone)
    for usage in everyone:
        while not usage._step.acquire(timeout=0.05):
            if usage._calls_back:  # it may wait for anything, and ends when it returns
                break
        else:
            usage._step.release()
