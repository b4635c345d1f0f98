"""Starting the server's program and stopping it."""

from __future__ import annotations

import collections
import os
import re
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import RetainError
from ..options.arguments import check_names, split
from ..options.retention_options import RetentionOptions
from .arguments import ServerCommand, server_command
from .binary import server_program
from .options import ServeOptions

KEY_VARIABLE = "LLAMA_API_KEY"  # as llama.cpp's server reads it
_OPTION_VARIABLE = "LLAMA_ARG_"  # llama.cpp's server reads its options from such variables too
_LISTENING = re.compile(r"listening on ((?:https?|unix)://.+)")
_OWN_REASON = re.compile(r"^retain-server: (.+)")
_ERROR = re.compile(r"^[\d.]+ E \w+\s+\S+: (.+)")  # as llama.cpp's server logs one
_SOCKET = "unix://"
_LAST_LINES = 400
_KILL_AFTER_S = 30
_POLL_S = 0.05


def unread_variables() -> list[str]:
    """Environment variables with options of llama.cpp's server, which it is started without.

    They would change what was resolved from the options here, and set what is refused among them.
    """
    return sorted(name for name in os.environ if name.startswith(_OPTION_VARIABLE))


class Server:
    """llama.cpp's server for one model over a cache of fixed size; a context manager that starts and stops it.

    Parameters
    ----------
    model : a GGUF file.
    budget, gates, policy and the other fields of `retain_local.options.retention_options.RetentionOptions` : of each
        slot; a size in bytes is that of all slots together.
    port : 0, the default here, takes a free one.
    host, api_key, parallel, ctx_size : see `retain_local.server.options.ServeOptions`.
    arguments : options of llama.cpp's server.
    log : called with each line that the server logs, in a thread of its own; not any more once it has raised something.

    Attributes
    ----------
    url : str
        Where it listens, such as http://127.0.0.1:8080, once it was started; with a path as its host unix:// and that.
    command : ServerCommand
        What was started, with the options as resolved.

    Raises
    ------
    RetainError : an argument cannot be used, or the server cannot be built or started; the message is one line.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        arguments: Sequence[str] = (),
        log: Callable[[str], None] | None = None,
        **options: Any,
    ) -> None:
        known = [*RetentionOptions.__dataclass_fields__, *ServeOptions.__dataclass_fields__]
        check_names(options, known, type(self).__name__)
        retention, rest = split(RetentionOptions, {"port": 0, **options})
        serve, _ = split(ServeOptions, rest)
        self.command: ServerCommand = server_command(model, retention, serve, arguments)
        self.url = ""
        self._is_ready = threading.Event()
        self._log = log
        self._log_error: Exception | None = None
        self._lines: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The number of the server's process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server, and return when it answers.

        Raises
        ------
        RetainError : it cannot be built or started, or runs already.
        """
        if self._process is not None:
            raise RetainError("this server runs already; make another one with `Server`")
        self.url = ""
        self._is_ready.clear()
        unread = unread_variables()
        environment = {name: value for name, value in os.environ.items() if name not in unread}
        if self.command.serve.api_key:  # arguments can be seen by every user of the machine
            environment[KEY_VARIABLE] = self.command.serve.api_key
        program = os.fspath(server_program())
        self._process = subprocess.Popen(
            [program, "--retain-stop-with-stdin", "on", *self.command.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
            start_new_session=True,  # Ctrl-C is for this program, which then asks the server to end
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def wait(self) -> int:
        """Wait for the server to end; returns its exit status. What `log` raised is raised then."""
        assert self._process is not None
        status = self._process.wait()
        self._reader.join()
        error, self._log_error = self._log_error, None
        if error is not None:
            raise error
        return status

    def terminate(self) -> None:
        """Ask the server to end: it cancels what it works on. A second time ends it at once."""
        if self._process is not None:
            self._process.terminate()

    def stop(self) -> None:
        """End the server, and return when it is gone."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._reader.join()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        if self.url.startswith(_SOCKET):  # llama.cpp leaves the file, and cannot start where there is one
            Path(self.url.removeprefix(_SOCKET).removesuffix(self.command.prefix)).unlink(missing_ok=True)
        self._process = None

    def reason(self) -> str:
        """Why the server ended, in one line, as its log has it."""
        for pattern in (_OWN_REASON, _ERROR):
            if found := [match[1] for line in self._lines if (match := pattern.search(line))]:
                return found[0].strip()
        return self._lines[-1].strip() if self._lines else "it did not say why"

    def _read_log(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            line = line.rstrip("\n")
            self._lines.append(line)
            if (match := _LISTENING.search(line)) and not self.url:
                self.url = match[1] + self.command.prefix
                self._is_ready.set()
            if self._log is not None and self._log_error is None:
                try:
                    self._log(line)
                except Exception as error:  # read on: a server whose log nobody reads stands still
                    self._log_error = error

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        while self._process.poll() is None:
            if self._is_ready.wait(_POLL_S):  # it says so when the model is loaded
                return
        self._reader.join()
        raise RetainError(f"the server did not start: {self.reason()}")
