"""Servers that the tests talk to, each started once; a plugin of pytest, as a second conftest would take the first one's name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from retain_local.paths import BUNDLED_MODEL
from retain_local.server import Server

from .servers import BUDGET, KEY, SLOTS, SMALL_BUDGET, SMALL_CTX, SMALL_SLOTS


@pytest.fixture(scope="session")
def server(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """SmolLM2 in two slots, with a key, on two threads."""
    saved = tmp_path_factory.mktemp("slots")
    template = Path(__file__).parent / "tools.jinja"
    more = ("--threads", "2", "--slot-save-path", str(saved), "--chat-template-file", str(template))
    with Server(smollm2, budget=BUDGET, parallel=SLOTS, api_key=KEY, policy="window", arguments=more) as started:
        yield started


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The bundled model with its gates, which answers within milliseconds."""
    more = ("--threads", "1", "--slot-save-path", str(tmp_path_factory.mktemp("slots")))
    options = {"budget": SMALL_BUDGET, "parallel": SMALL_SLOTS, "ctx_size": SMALL_CTX}
    with Server(BUNDLED_MODEL, api_key=KEY, arguments=more, **options) as started:
        yield started
