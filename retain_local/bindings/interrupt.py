"""Letting Ctrl-C stop an evaluation in its middle."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import llama_cpp


@contextmanager
def stoppable(ctx: Any) -> Iterator[None]:
    """In the block Ctrl-C makes the evaluation that runs fail at once, and then comes out as KeyboardInterrupt.

    Python runs signal handlers only between its own instructions, and one native call can take half a minute. Does
    nothing outside the main thread, and where somebody else handles the signal.

    Parameters
    ----------
    ctx : the `llama_context *`.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    pressed = False

    def note(_signal: int, _frame: Any) -> None:
        nonlocal pressed
        pressed = True

    # entering Python from native code is what lets the handler run; raising there would be lost
    callback = llama_cpp.ggml_abort_callback(lambda _data: pressed)
    llama_cpp.llama_set_abort_callback(ctx, callback, None)
    signal.signal(signal.SIGINT, note)
    try:
        yield
    except Exception:
        if not pressed:
            raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        llama_cpp.llama_set_abort_callback(ctx, llama_cpp.ggml_abort_callback(), None)
    if pressed:
        raise KeyboardInterrupt
