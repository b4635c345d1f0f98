"""Damaged session files: each is loaded, or refused with one line and the running chat as it was; then the chat goes on."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.mutate import mutate
from fuzz.run import main
from retain_local import Llama, RetainError
from retain_local.chat.generation import Sampling
from retain_local.chat.session import Session
from retain_local.chat.session_file import MAGIC
from support.llamas import kept, text
from support.tiny_models import N_VOCAB, TinyModel, write_tiny_model

MODEL = TinyModel("llama", n_layer=2, n_embd=32, n_head=2, n_head_kv=1, head_size=16, n_ff=32)
N_CTX, BUDGET = 256, 32
SAMPLING = Sampling(temp=0, max_tokens=3)
DIGEST_BYTES = hashlib.sha256().digest_size


def seal(data: bytes) -> bytes:
    """Data with a right checksum at its end."""
    body = data[:-DIGEST_BYTES]
    return body + hashlib.sha256(body).digest() if len(data) > DIGEST_BYTES else data


class SessionFuzzer:
    """Changes of one saved conversation, loaded into another one."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "session"
        llm = Llama(
            write_tiny_model(folder / "model.gguf", MODEL),
            n_ctx=N_CTX,
            n_batch=32,
            n_ubatch=32,
            n_threads=1,
            n_threads_batch=1,
            budget=BUDGET,
            buffer=8,
            policy="window",
        )
        self.session = Session(llm, "be a cat", SAMPLING)
        llm.retention.pin(5, 9)
        for message in (text(60), "and now", "é?"):
            list(self.session.send(message))
        self.session.save(self.path)
        self.whole = self.path.read_bytes()

    def case(self, rng: np.random.Generator) -> None:
        session, retention = self.session, self.session.llm.retention
        retention.unpin()
        retention.set_budget(BUDGET)
        session.restart("")
        retention.pin(3, 5)
        if rng.integers(2):
            list(session.send("hello"))
        before = self._state()
        self.path.write_bytes(self._changed_header(rng) if rng.integers(2) else mutate(rng, self.whole, seal))
        try:
            session.load(self.path)
        except RetainError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000, error
            assert self._state() == before, f"the running chat changed: {error}"
        self._goes_on()

    def _state(self) -> Any:
        session, retention = self.session, self.session.llm.retention
        cells = kept(session.llm)
        return session.messages, session.tokens, session.llm.n_tokens, retention.pins, retention.budget, cells

    def _goes_on(self) -> None:
        """A message is answered, or refused since the context is full; after `/clear` it is answered."""
        session = self.session
        try:
            list(session.send("more"))
        except RetainError as error:
            assert "context" in str(error), error
        session.restart(session.system[:20])
        list(session.send("hello"))

    def _changed_header(self, rng: np.random.Generator) -> bytes:
        (length,) = struct.unpack_from("<Q", self.whole, len(MAGIC))
        start = len(MAGIC) + 8
        header = json.loads(self.whole[start : start + length])
        for _ in range(rng.integers(1, 3)):
            name = sorted(header)[rng.integers(len(header))]
            header[name] = _odd(rng, header[name])
        encoded = json.dumps(header).encode()
        body = MAGIC + struct.pack("<Q", len(encoded)) + encoded + self.whole[start + length : -DIGEST_BYTES]
        return body + hashlib.sha256(body).digest()


def _odd(rng: np.random.Generator, value: Any) -> Any:
    """Another value: near the given one, or of another kind."""
    numbers = (-1, 0, 1, 2, BUDGET, N_CTX - 1, N_CTX, N_VOCAB - 1, N_VOCAB, 2**31 - 1, 2**31, 2**63, 1.5)
    if rng.integers(8) == 0:
        return (None, True, "", "\ud800", [], {}, [[]], "x" * 5000, "a\nb\x1b[2J", 10**400)[rng.integers(10)]
    if isinstance(value, int):
        return numbers[rng.integers(len(numbers))]
    if isinstance(value, str):
        return (value[: len(value) // 2], value + "\n", value * 40, "system", "assistant")[rng.integers(5)]
    if isinstance(value, dict) and value:
        name = sorted(value)[rng.integers(len(value))]
        return value | {name: _odd(rng, value[name])}
    if isinstance(value, list) and value:
        at = int(rng.integers(len(value)))
        return (
            value[:at],
            value[at:],
            value * 20,
            [*value[:at], _odd(rng, value[at]), *value[at + 1 :]],
            [*value[:at], value[at], *value[at:]],
        )[rng.integers(5)]
    return [[int(rng.integers(N_CTX)), int(rng.integers(N_CTX))]]


if __name__ == "__main__":
    main(SessionFuzzer)
