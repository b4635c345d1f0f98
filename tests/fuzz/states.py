"""Damaged states of a context, by the four ways in: each is taken, or refused with one line and the running session as it
was, with no more memory than the input is large."""

from __future__ import annotations

import ctypes
import resource
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fuzz.mutate import mutate
from fuzz.run import main
from retain_local.bindings import retain_h
from support.llama_session import Model, logged_errors
from support.retained import RetainedSession
from support.state_checksum import state_checksum
from support.tiny_gates import random_gates, write_tiny_gates
from support.tiny_models import N_VOCAB, TinyModel, write_tiny_model

import llama_cpp  # isort: skip  the modules above have loaded the libraries

MODEL = TinyModel("llama", n_layer=2, n_embd=32, n_head=4, n_head_kv=2, head_size=32, n_ff=32)
KINDS = [(policy, n_bytes) for policy in ("gate", "snapkv", "window") for n_bytes in (0, 1 << 18)]  # the archive's, too
TOKENS = [5, 6, 7]
HEADER = struct.Struct("<4sIQQQ")  # magic, version, shape, bytes of the payload, checksum
MAX_GROWTH = 64 << 20  # bytes that the process may grow by: states are a thousand times smaller


def seal(data: bytes) -> bytes:
    """Data whose header has the length and the checksum of what follows it."""
    at = data.find(b"rlrt")
    if at < 0 or len(data) < at + HEADER.size:
        return data
    magic, version, shape, _, _ = HEADER.unpack_from(data, at)
    payload = data[at + HEADER.size :]
    header = HEADER.pack(magic, version, shape, len(payload), state_checksum(payload))
    return data[:at] + header + payload


@dataclass
class Way:
    """How a state comes in: from memory or a file, of everything or of one sequence (None: everything)."""

    from_file: bool
    seq_id: int | None

    def save(self, session: RetainedSession, path: Path) -> bytes:
        if not self.from_file:
            return session.state(self.seq_id)
        tokens = (llama_cpp.llama_token * len(TOKENS))(*TOKENS)
        name, handle = str(path).encode(), session.handle
        if self.seq_id is None:
            assert llama_cpp.llama_state_save_file(handle, name, tokens, len(TOKENS))
        else:
            assert llama_cpp.llama_state_seq_save_file(handle, name, self.seq_id, tokens, len(TOKENS))
        return path.read_bytes()

    def load(self, session: RetainedSession, path: Path, data: bytes) -> bool:
        """Whether the library took it."""
        if not self.from_file:
            return session.restore(data, self.seq_id)
        path.write_bytes(data)
        tokens, n_tokens = (llama_cpp.llama_token * 64)(), ctypes.c_size_t()
        name, handle = str(path).encode(), session.handle
        if self.seq_id is None:
            return llama_cpp.llama_state_load_file(handle, name, tokens, len(tokens), ctypes.byref(n_tokens))
        n = llama_cpp.llama_state_seq_load_file(handle, name, self.seq_id, tokens, len(tokens), ctypes.byref(n_tokens))
        return n != 0


WAYS = [Way(from_file, seq_id) for from_file in (False, True) for seq_id in (None, 0)]


class StateFuzzer:
    """States of two sequences under several policies, with and without an archive, into a context that is in the middle of other texts."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "state"
        model = Model(write_tiny_model(folder / "m.gguf", MODEL))
        gates = random_gates(MODEL.n_layer, MODEL.n_embd, MODEL.n_head_kv)
        gates_path = write_tiny_gates(folder / "m.gates.gguf", model.path, MODEL, gates)

        def session(policy: str, n_bytes: int) -> RetainedSession:
            retain = {"budget": 16, "buffer": 4, "n_sink": 1, "policy": policy, "gates": gates_path}
            retain |= {"recall": 0.5, "archive_bytes": n_bytes}
            return RetainedSession(model, retain, n_ctx=256, n_batch=64, n_ubatch=8, n_seq_max=2)

        rng = np.random.default_rng(0)
        self.states: list[tuple[Way, bytes]] = []
        for kind in KINDS:
            with session(*kind) as saved:
                for lengths in ((0, 0), (40, 5), (100, 90)):
                    for seq_id, n in enumerate(lengths):
                        saved.remove(0, -1, seq_id)
                        if n:
                            saved.decode(rng.integers(3, N_VOCAB, n).tolist(), seq_id)
                    self.states += [(way, way.save(saved, self.path)) for way in WAYS]
                assert (saved.stats().n_archived > 0) == (kind[1] > 0)
        self.running = {kind: session(*kind) for kind in KINDS}
        for context in self.running.values():
            for seq_id, n in enumerate((60, 33)):
                context.decode(rng.integers(3, N_VOCAB, n).tolist(), seq_id)
            context.pin(3, 6)
        self.before = {kind: context.state() for kind, context in self.running.items()}
        self.peak = peak_bytes()

    def case(self, rng: np.random.Generator) -> None:
        with logged_errors():
            self._try(rng)

    def _try(self, rng: np.random.Generator) -> None:
        way, state = self.states[rng.integers(len(self.states))]
        kind = KINDS[rng.integers(len(KINDS))]
        session, before = self.running[kind], self.before[kind]
        data = mutate(rng, state, seal)
        retain_h.clear_error()
        taken = way.load(session, self.path, data)
        reason = retain_h.error_text()
        if taken:
            self._go_on(session, rng)
            assert session.restore(before)
        else:
            assert reason and "\n" not in reason, f"refused with the reason {reason!r}"
        assert session.state() == before, f"{way} changed the session and said {reason!r}"
        grown = peak_bytes() - self.peak
        assert grown < MAX_GROWTH, f"{way} took {grown:,} bytes for {len(data):,}: {reason!r}"

    def _go_on(self, session: RetainedSession, rng: np.random.Generator) -> None:
        """What was taken, whatever it holds, can be worked with."""
        for seq_id in (0, 1):
            try:
                session.decode(rng.integers(3, N_VOCAB, 20).tolist(), seq_id)
            except RuntimeError:
                assert retain_h.error_text()
            retain_h.set_budget(session.handle, seq_id, 8)
            session.copy(seq_id, 1 - seq_id)
        stats = session.stats()
        assert stats.n_cells <= stats.n_cells_max


def peak_bytes() -> int:
    """The most memory that this process has had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


if __name__ == "__main__":
    main(StateFuzzer)
