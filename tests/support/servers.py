"""Talking to a server of the tests over plain HTTP."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from retain_local.server import Server

KEY = "a key of the tests"
BUDGET, SLOTS = 256, 2  # of the server of SmolLM2
SMALL_BUDGET, SMALL_SLOTS, SMALL_CTX = 64, 4, 4096  # of the one of the bundled model


def ask(server: Server, method: str, path: str, body: Any = None, key: str | None = KEY) -> tuple[int, Any]:
    """Status and body of one request; a body that is JSON is read."""
    parts = urlsplit(server.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=300)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    data = body if isinstance(body, (bytes, str, type(None))) else json.dumps(body)
    try:
        connection.request(method, path, data, headers)
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    return response.status, json.loads(text) if "json" in response.headers.get_content_type() else text


def complete(
    server: Server, prompt: str | list[int], n_predict: int = 1, key: str | None = KEY, **more: Any
) -> dict[str, Any]:
    """The reply to a plain completion, greedy."""
    status, reply = ask(
        server, "POST", "/completion", {"prompt": prompt, "n_predict": n_predict, "temperature": 0, **more}, key
    )
    assert status == 200, reply
    return reply
