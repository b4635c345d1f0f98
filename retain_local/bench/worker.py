"""The process of one side of a comparison: `python -m retain_local.bench.worker`, a JSON line in and one out for each
command. Two libraries cannot live in one process."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

from ..errors import RetainError
from .machine import peak_resident, read_rate


class Worker:
    """Carries out the commands: a method each."""

    def __init__(self) -> None:
        self._session: Any = None
        self._is_ours = False

    def open(self, retention: dict[str, Any] | None, **arguments: Any) -> None:
        """Load a model; ``retention`` holds the fields of `RetentionOptions`, or is None on stock libraries."""
        self._is_ours = retention is not None
        if retention is None:
            from .context import BenchSession

            self._session = BenchSession(**arguments)
            return
        from ..bindings import retain_h  # loads our libraries, before the session imports the bindings
        from ..bindings.context import armed
        from ..options.retention_options import RetentionOptions
        from .context import BenchSession

        with armed(RetentionOptions(**retention)):
            try:
                self._session = BenchSession(**arguments)
            except RetainError as error:
                reason = retain_h.error_text()
                raise RetainError(f"{error}: {reason}" if reason else str(error)) from None

    def read(self, n: int) -> list[float]:
        return self._session.read(n)

    def write(self, n: int) -> float:
        return self._session.write(n)

    def can_fill(self) -> bool:
        return self._session.can_fill()

    def fill(self, depth: int) -> None:
        self._session.fill(depth)

    def back(self, depth: int) -> bool:
        """Go back to a depth, if the cache there is still what it was."""
        if self._is_ours:
            from ..bindings import retain_h

            if retain_h.rollback_limit(self._session.context, 0) > depth:
                return False
        return self._session.cut(depth)

    def stats(self) -> dict[str, Any]:
        """Depth, peak resident bytes, and of our side the native statistics."""
        found = {"depth": self._session.depth, "resident": peak_resident(), "state_bytes": 0}
        if not self._is_ours:
            return found | {"state_bytes": self._session.state_bytes()}
        import ctypes

        from ..bindings import retain_h

        stats = retain_h.RetainStats()
        retain_h.check(retain_h.get_stats(self._session.context, ctypes.byref(stats)))
        found["device"] = retain_h.cells_device(self._session.context).decode(errors="replace")
        return found | {name: getattr(stats, name) for name, *_ in retain_h.RetainStats._fields_}

    def read_rate(self, n_bytes: int, repeat: int, n_threads: int) -> float:
        return read_rate(n_bytes, repeat, n_threads)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the process that asks ends this one
    worker = Worker()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = {"result": getattr(worker, command.pop("command"))(**command)}
        except RetainError as error:
            answer = {"error": str(error)}
        except MemoryError:
            answer = {"error": "there is not enough memory"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
