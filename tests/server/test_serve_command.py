"""`retain-local serve`: what is passed on, what is refused, what it says."""

from __future__ import annotations

import dataclasses
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from conftest import TinyFiles
from retain_local.errors import RetainError, UsageError
from retain_local.options.retention_options import RetentionOptions
from retain_local.paths import BUNDLED_MODEL
from retain_local.server import Server
from retain_local.server.arguments import ServerCommand, server_command
from retain_local.server.options import ServeOptions
from support.command_line import COMMAND, environment
from support.servers import ask


def command(*more: str, serve: ServeOptions | None = None, **retention: object) -> ServerCommand:
    return server_command(BUNDLED_MODEL, RetentionOptions(**retention), serve or ServeOptions(), more)


def value(made: ServerCommand, name: str) -> str:
    return made.arguments[made.arguments.index(name) + 1]


def test_the_gates_beside_the_model_are_taken() -> None:
    made = command(budget=64)
    assert value(made, "--retain-policy") == "gate"
    assert Path(value(made, "--retain-gates")).name == "bundled.gates.gguf"


def test_other_options_are_passed_on_last() -> None:
    assert command("--jinja", "--slots", budget=64).arguments[-2:] == ("--jinja", "--slots")


def test_a_size_is_that_of_all_slots() -> None:
    one = command(budget="1MB", serve=ServeOptions(parallel=1))
    four = command(budget="1MB", serve=ServeOptions(parallel=4))
    assert isinstance(one.retention.budget, int) and isinstance(four.retention.budget, int)
    assert four.retention.budget < one.retention.budget / 2
    assert max(one.pool_bytes, four.pool_bytes) <= 1e6


def test_the_bytes_that_are_said_are_those_of_the_cell_types() -> None:
    assert command("-ctk", "q8_0", "-ctv", "q8_0", budget=64).pool_bytes < 0.6 * command(budget=64).pool_bytes


@pytest.mark.parametrize("arch", ["llama", "gemma2"])
def test_the_bytes_that_are_said_are_those_of_the_pool(arch: str, tiny: TinyFiles) -> None:
    with Server(tiny.model(arch), budget=512, parallel=2, gates="none", policy="window") as server:
        _, told = ask(server, "GET", "/retention", key=None)
        assert 1 <= told["total"]["bytes_pool"] / server.command.pool_bytes < 1.1  # pages are whole


def test_a_context_beyond_the_training() -> None:
    assert command(budget=64).n_ctx == 1024
    longer = command(budget=64, serve=ServeOptions(ctx_size=5000))
    assert value(longer, "--override-kv") == "qwen3.context_length=int:5000"
    assert value(longer, "--retain-trained-context") == "1024"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--context-shift",), "nothing to shift"),
        (("--cache-reuse", "256"), "nothing to shift"),
        (("--embeddings",), "llama.cpp's own server"),
        (("-m", "x.gguf"), "before the options"),
        (("--models-dir", "x"), "the one model"),
        (("-np", "2"), "use --parallel"),
        (("-b", "many"), "whole number"),
        (("--log-verbosity", "0"), "--verbose shows all of it"),
        (("--log-disable",), "the log says when the server listens"),
        (("-ctk", "q3_k"), "not one of"),
    ],
)
def test_what_cannot_be_passed_on(words: tuple[str, ...], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        command(*words, budget=64)


def test_the_key_is_in_no_argument() -> None:
    made = command(budget=64, serve=dataclasses.replace(ServeOptions(), api_key="a secret"))
    assert not any("a secret" in word for word in made.arguments)


def test_an_argument_that_the_class_does_not_have() -> None:
    with pytest.raises(UsageError, match="Server takes no argument 'buget'; did you mean 'budget'"):
        Server(BUNDLED_MODEL, buget=64)


def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(RetainError, match=rf"did not start: .*{port}") as raised:
            Server(BUNDLED_MODEL, budget=64, port=port).start()
    assert "\n" not in str(raised.value)


def test_an_option_that_nobody_knows_is_said_in_one_line() -> None:
    with pytest.raises(RetainError, match="--no-such-option"):
        Server(BUNDLED_MODEL, budget=64, arguments=["--no-such-option"]).start()


def test_gates_of_another_model_are_said_in_one_line(tmp_path: Path, tiny) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RetainError, match="did not start: .*gates"):
        Server(BUNDLED_MODEL, budget=64, gates=tiny.gates("llama")).start()


def test_variables_of_the_environment_do_not_change_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("API_PREFIX", "/x"), ("LOG_VERBOSITY", "0"), ("EMBEDDINGS", "1")):
        monkeypatch.setenv(f"LLAMA_ARG_{name}", value)
    with Server(BUNDLED_MODEL, budget=64) as server:
        with urllib.request.urlopen(f"{server.url}/v1/models", timeout=60) as answer:
            assert answer.status == 200
        with pytest.raises(urllib.error.HTTPError, match="501"):
            urllib.request.urlopen(f"{server.url}/v1/embeddings", b'{"input": "a"}', timeout=60)


def test_paths_that_begin_with_a_prefix() -> None:
    with Server(BUNDLED_MODEL, budget=64, arguments=["--api-prefix", "/api"]) as server:
        assert server.url.endswith("/api")
        with urllib.request.urlopen(f"{server.url}/v1/models", timeout=60) as answer:
            assert answer.status == 200


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="the system has no sockets in files")
def test_a_socket_in_a_file(tmp_path: Path) -> None:
    server = Server(BUNDLED_MODEL, budget=64, host=str(tmp_path / "s.sock"))
    for _ in range(2):  # the file of the first does not stand in the way of the second
        with server:
            assert server.url == f"unix://{tmp_path / 's.sock'}"
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "s.sock"))
                client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.1 200")
        assert not (tmp_path / "s.sock").exists()


def test_a_log_that_raises_does_not_stop_the_server() -> None:
    def log(line: str) -> None:
        raise BrokenPipeError("nobody reads it")

    server = Server(BUNDLED_MODEL, budget=64, log=log)
    server.start()
    with pytest.raises(RetainError, match="runs already"):
        server.start()
    server.terminate()
    with pytest.raises(BrokenPipeError, match="nobody reads it"):
        server.wait()
    server.stop()


def test_what_it_says_and_how_it_ends(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "serve", "bundled", "--budget", "64", "--port", "0", "--parallel", "2"],
        env={**environment(tmp_path), "LLAMA_ARG_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 0
    said = " ".join(said.split())
    assert "not read from the environment: LLAMA_ARG_THREADS;" in said
    assert "2 slots with 64 cells per layer and KV head each by the policy gate" in said
    assert "open to every program on this machine, without a key" in said


def test_the_archive_is_passed_on_and_said(tmp_path: Path) -> None:
    made = command(budget=64, archive="1MiB", archive_type="q8_0", archive_file=tmp_path / "cells")
    names = ("recall", "archive", "archive-type", "archive-file")
    assert [value(made, f"--retain-{name}") for name in names] == ["0.25", "1048576", "q8_0", str(tmp_path / "cells")]
    plain = command(budget=64)
    assert made.pool_bytes < plain.pool_bytes, "residents alone are in the pool"
    assert not any("archive" in word for word in plain.arguments)
