"""Clients that cancel, vanish, send garbage or the wrong key, many at once: everyone is answered, nothing leaks."""

from __future__ import annotations

import http.client
import json
import random
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from retain_local.paths import BUNDLED_MODEL
from retain_local.server import Server
from support.servers import KEY, SMALL_CTX, SMALL_SLOTS, ask

N_REQUESTS = 200
MAX_STORMS, SETTLED = 30, 4  # of so many requests each; over so many memory stays the same within 1%
LARGE_BODY = 50_000_000  # bytes


def body_of(rng: random.Random, n_words: int, **more: Any) -> dict[str, Any]:
    words = rng.choices("the of and to in is that it was for".split(), k=n_words)
    return {"prompt": " ".join(words), "n_predict": 12, "temperature": 0, **more}


def raw(server: Server, body: bytes, length: int | None = None) -> socket.socket:
    """A connection that has sent a request for a completion, or the beginning of one."""
    parts = urlsplit(server.url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=60)
    head = f"POST /completion HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body)
    return connection


def cancelled_stream(server: Server, rng: random.Random) -> None:
    with raw(server, json.dumps(body_of(rng, 60, stream=True, n_predict=500)).encode()) as connection:
        assert connection.recv(64).startswith(b"HTTP/1.1 200")


def dropped_connection(server: Server, rng: random.Random) -> None:
    raw(server, json.dumps(body_of(rng, 60)).encode()).close()


def half_a_body(server: Server, rng: random.Random) -> None:
    raw(server, b'{"prompt": "th', length=500).close()


def malformed(server: Server, rng: random.Random) -> None:
    wrong = rng.choice([b'{"prompt": ', b"[]", b"3", b"\xff\xfe", b"", b'{"prompt": {}}', b"[" * 100_000])
    status, reply = ask(server, "POST", "/completion", wrong)
    assert 400 <= status < 600 and reply["error"]["message"] and reply["error"]["type"]


def wrong_key(server: Server, rng: random.Random) -> None:
    status, reply = ask(server, "POST", "/completion", body_of(rng, 3), key="wrong")
    assert status == 401 and reply["error"]["type"] == "authentication_error"


def saved_and_restored(server: Server, rng: random.Random) -> None:
    number = rng.randrange(SMALL_SLOTS)
    name = f"slot-{number}.bin"
    assert ask(server, "POST", f"/slots/{number}?action=save", {"filename": name})[0] == 200
    assert ask(server, "POST", f"/slots/{number}?action=restore", {"filename": name})[0] in (
        200,
        400,
    )  # 400: it was empty


def proper(server: Server, rng: random.Random) -> None:
    status, reply = ask(server, "POST", "/completion", body_of(rng, rng.randrange(1, 300)))
    assert status == 200 and reply["retention"]["tokens_seen"] > 0, reply


def beyond_the_context(server: Server, rng: random.Random) -> None:
    status, reply = ask(server, "POST", "/completion", body_of(rng, 6000))
    assert status == 400 and reply["error"]["type"] == "exceed_context_size_error"


KINDS = [
    cancelled_stream,
    dropped_connection,
    half_a_body,
    malformed,
    wrong_key,
    saved_and_restored,
    beyond_the_context,
]


def storm(server: Server, seed: int) -> None:
    rng = random.Random(seed)
    kinds = [rng.choice(KINDS) if rng.random() < 0.5 else proper for _ in range(N_REQUESTS)]
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(kind, server, random.Random(seed + i)) for i, kind in enumerate(kinds)]:
            done.result()


def wait_until_idle(server: Server) -> None:
    for _ in range(600):
        _, told = ask(server, "GET", "/retention")
        if not any(slot["is_processing"] for slot in told["slots"]):
            return
        time.sleep(0.1)
    raise AssertionError("slots work on requests that nobody waits for")


def test_two_hundred_requests_in_four_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")  # an arena for each thread would grow with the luck of the scheduler
    more = ("--threads", "1", "--slot-save-path", str(tmp_path), "--cache-ram", "0")
    options = {"budget": 64, "parallel": SMALL_SLOTS, "api_key": KEY, "ctx_size": SMALL_CTX}
    with Server(BUNDLED_MODEL, arguments=more, **options) as server:
        process = psutil.Process(server.pid)
        sizes = []  # bytes after each storm; they rise until threads and buffers have their size
        for seed in range(MAX_STORMS):
            storm(server, seed)
            wait_until_idle(server)
            sizes.append(process.memory_info().rss)
            if len(sizes) > SETTLED and sizes[-1] <= 1.01 * sizes[-1 - SETTLED]:
                break
        else:
            raise AssertionError(f"the server grows with every storm of requests: {sizes}")
        _, told = ask(server, "GET", "/retention")
    assert told["total"]["cells_peak"] <= told["total"]["cells_max"]


def test_a_body_of_fifty_megabytes(small: Server) -> None:
    body = {"prompt": "the", "n_predict": 1, "note": "x" * LARGE_BODY}
    assert ask(small, "POST", "/completion", body)[0] == 200


@pytest.mark.parametrize("ticket", ["x", "9" * 30])
def test_a_stop_word_like_our_own(small: Server, ticket: str) -> None:
    body = {"prompt": "the", "n_predict": 2, "stop": [f"\x01retain-ticket {ticket}"], "retention": {"budget": 32}}
    for _ in range(2):
        status, reply = ask(small, "POST", "/completion", body)
        assert status == 200 and reply["retention"]["budget"] == 32


def test_longer_than_the_training_context(small: Server) -> None:
    lines: list[str] = []
    small._log = lines.append
    try:
        for seed in (4, 5):
            _, reply = ask(small, "POST", "/completion", body_of(random.Random(seed), 1500, id_slot=0))
            assert reply["retention"]["beyond_trained_context"]
    finally:
        small._log = None
    assert sum("more than the 1024 that the model was trained for" in line for line in lines) <= 1


def test_sigterm_during_a_reply() -> None:
    with Server(BUNDLED_MODEL, budget=64, arguments=("--threads", "1")) as server:
        body = json.dumps(body_of(random.Random(6), 30, stream=True, n_predict=900, ignore_eos=True)).encode()
        parts = urlsplit(server.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        connection.request("POST", "/completion", body)
        response = connection.getresponse()
        assert response.read(10)
        process = psutil.Process(server.pid)
        process.send_signal(signal.SIGTERM)
        with suppress(http.client.IncompleteRead):
            response.read()
        assert server.wait() == 0


def test_the_server_ends_with_the_program_that_started_it(tmp_path: Path) -> None:
    program = (
        "import os, signal\n"
        "from retain_local.paths import BUNDLED_MODEL\n"
        "from retain_local.server import Server\n"
        "server = Server(BUNDLED_MODEL, budget=64)\n"
        "server.start()\n"
        "print(server.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    pid = int(done.stdout)
    for _ in range(300):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    raise AssertionError("the server outlived the program that started it")
