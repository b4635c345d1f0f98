"""Operations on the memory in any order, against a plain model of it: which are refused, and what every sequence holds
afterwards, to the bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from fuzz.run import main
from retain_local.bindings import retain_h
from retain_local.bindings.capture import Capture
from support.llama_session import Model, logged_errors
from support.reference import SCOPES, Options
from support.retained import RetainedSession, assert_same_cells, retain_fields
from support.sequence_model import POS_MAX, Sequence, new_sequence
from support.tiny_gates import random_gates, write_tiny_gates
from support.tiny_models import N_VOCAB, TinyModel, write_tiny_model

import llama_cpp  # isort: skip  the modules above have loaded the libraries

SHAPE = TinyModel("llama", n_layer=2, n_embd=32, n_head=4, n_head_kv=2, head_size=8, n_ff=32)
N_BATCH = 24
N_CTX = 512
N_OPERATIONS = 25
POLICIES = ("gate", "window", "random", "none")


def random_options(rng: np.random.Generator) -> Options:
    n_sink, n_recent = int(rng.integers(4)), int(rng.integers(4))
    budget = n_sink + n_recent + int(rng.integers(1, 24))
    return Options(
        budget=budget,
        buffer=int(rng.integers(12)),
        n_ubatch=int(rng.integers(1, N_BATCH + 1)),
        lookahead=int(rng.choice([1, 1, 2, 16])),
        n_sink=n_sink,
        n_recent=n_recent,
        min_per_head=int(rng.integers(min(4, budget) + 1)),
        policy=str(rng.choice(POLICIES)),
        scope=str(rng.choice(SCOPES)),
        seed=int(rng.integers(2**32)),
    )


class OperationFuzzer:
    """A case is a fresh context and a program for it."""

    def __init__(self, folder: Path) -> None:
        self.model = Model(write_tiny_model(folder / "m.gguf", SHAPE))
        gates = random_gates(SHAPE.n_layer, SHAPE.n_embd, SHAPE.n_head_kv)
        self.gates = write_tiny_gates(folder / "m.gates.gguf", self.model.path, SHAPE, gates)

    def case(self, rng: np.random.Generator) -> None:
        options, n_seq, prefill = random_options(rng), int(rng.integers(1, 4)), int(rng.integers(4) == 0)
        capture = Capture({"retention_log_beta": SHAPE.n_head_kv})
        retain = {**retain_fields(options), "gates": self.gates, "prefill": prefill}
        sizes = {
            "n_ctx": N_CTX,
            "n_batch": N_BATCH,
            "n_ubatch": options.n_ubatch,
            "n_seq_max": n_seq,
            "cell_type": "f32",
        }
        with logged_errors(), RetainedSession(self.model, retain, capture=capture, **sizes) as session:
            program = _Program(session, options, n_seq, prefill, rng)
            for _ in range(N_OPERATIONS):
                program.step()


class _Program:
    """The context, and the plain model of each of its sequences."""

    def __init__(
        self, session: RetainedSession, options: Options, n_seq: int, prefill: int, rng: np.random.Generator
    ) -> None:
        self.session, self.options, self.prefill, self.rng = session, options, prefill, rng
        self.sequences = [new_sequence(SHAPE.n_layer, SHAPE.n_head_kv, options) for _ in range(n_seq)]
        for sequence in self.sequences if prefill else []:
            sequence.n_max = sequence.n_cell_lists * max(N_CTX, options.budget + options.n_ubatch)
        self.saved: list[tuple[bytes, Sequence]] = []
        self.saved_all: list[tuple[bytes, list[Sequence]]] = []
        self.done: list[str] = []

    def step(self) -> None:
        name, operation = _OPERATIONS[self.rng.choice(len(_OPERATIONS), p=_PROBABILITIES)]
        self.done.append(name)
        retain_h.clear_error()
        operation(self)
        try:
            self._compare()
        except AssertionError as error:
            raise AssertionError(f"after {', '.join(self.done)}: {error}") from error

    def _compare(self) -> None:
        handle, memory = self.session.handle, self.session.memory
        for s, sequence in enumerate(self.sequences):
            assert_same_cells(self.session, sequence, s)
            assert self.session.n_seen(s) == sequence.next_pos
            assert self.session.rollback_limit(s) == sequence.rollback_limit
            assert llama_cpp.llama_memory_seq_pos_min(memory, s) == sequence.pos_min
            assert retain_h.get_budget(handle, s) == sequence.options.budget
        stats = self.session.stats()
        assert stats.n_seen == sum(sequence.n_seen for sequence in self.sequences)
        assert stats.n_cells == sum(sequence.n_cells for sequence in self.sequences)
        assert stats.n_cells_peak <= stats.n_cells_max == len(self.sequences) * self.sequences[0].n_max
        lengths = [
            len(sequence.cell_list(il, head)[0])
            for sequence in self.sequences
            for il in range(SHAPE.n_layer)
            for head in range(SHAPE.n_head_kv)
        ]
        assert stats.n_pages_used == sum(-(-n // stats.page_size) for n in lengths)

    def _refused(self, allowed: bool, did: bool) -> None:
        assert did == allowed, f"{self.done[-1]}: {'refused' if allowed else 'taken'} ({retain_h.error_text()!r})"
        assert allowed or retain_h.error_text(), f"{self.done[-1]}: refused without a reason"

    def _sequence(self) -> int:
        return int(self.rng.integers(len(self.sequences)))

    def _position(self, s: int) -> int:
        """One of the sequence, or near its ends."""
        return int(self.rng.integers(-2, self.sequences[s].next_pos + 4))

    def _range(self, s: int) -> tuple[int, int]:
        p0 = self._position(s)
        return p0, -1 if self.rng.integers(2) else p0 + int(self.rng.integers(40))

    # the operations

    def decode(self) -> None:
        """One batch whose tokens belong to sequences in any order."""
        n = int(self.rng.integers(1, N_BATCH + 1))
        sequences = [self._sequence()] * n if self.rng.integers(2) else [self._sequence() for _ in range(n)]
        starts = [sequence.next_pos for sequence in self.sequences]
        if self.rng.integers(20) == 0:  # an empty one begins anywhere
            starts = [start or int(self.rng.choice([9, POS_MAX - 15, POS_MAX - 40])) for start in starts]
        crowding = 1 if self.rng.integers(3) else int(self.rng.integers(2, 9))  # tokens at each position
        positions = [starts[s] + sequences[:i].count(s) // crowding for i, s in enumerate(sequences)]
        tokens = self.rng.integers(3, N_VOCAB, n).tolist()
        fits = max(positions) <= POS_MAX and all(self._counts(s, starts[s], sequences.count(s)) for s in set(sequences))
        fits = fits and all(self.sequences[s].can_read(sequences.count(s)) for s in set(sequences))
        positions_in_int = [min(p, 2**31 - 1) for p in positions]
        try:
            self.session.decode_rows(list(zip(tokens, positions_in_int, sequences)))
            did = True
        except RuntimeError:
            did = False
        for sequence in self.sequences:
            sequence.shifted = False
        self._refused(fits, did)
        if not did:
            return
        log_beta = self.session.capture.take("retention_log_beta", SHAPE.n_layer)
        for start in range(0, n, self.options.n_ubatch):
            rows = np.arange(start, min(start + self.options.n_ubatch, n))
            for s in sorted({sequences[row] for row in rows}):
                own = [row for row in rows if sequences[row] == s]
                self.sequences[s].add(np.array(positions)[own], log_beta[:, own])

    def _counts(self, s: int, start: int, n: int) -> bool:
        """Whether n more tokens of a sequence can be counted."""
        return (self.sequences[s].n_seen if self.sequences[s].next_pos else start) + n <= POS_MAX + 1

    def remove(self) -> None:
        s = self._sequence()
        p0, p1 = self._range(s)
        did = llama_cpp.llama_memory_seq_rm(self.session.memory, s, p0, p1)
        self._refused(self.sequences[s].cut(p0, p1), did)

    def roll_back(self) -> None:
        s = self._sequence()
        p0 = max(0, self.sequences[s].next_pos - int(self.rng.integers(1, 12)))
        did = llama_cpp.llama_memory_seq_rm(self.session.memory, s, p0, -1)
        self._refused(self.sequences[s].cut(p0, -1), did)

    def remove_of_all(self) -> None:
        p0, p1 = self._range(self._sequence())
        allowed = not any(sequence.refuses_cut(max(p0, 0), p1) for sequence in self.sequences)
        did = llama_cpp.llama_memory_seq_rm(self.session.memory, -1, p0, p1)
        for sequence in self.sequences if allowed else []:
            sequence.cut(p0, p1)
        self._refused(allowed, did)

    def copy(self) -> None:
        source, to = self._sequence(), self._sequence()
        p0, p1 = self._range(source) if self.rng.integers(2) else (-1, -1)
        llama_cpp.llama_memory_seq_cp(self.session.memory, source, to, p0, p1)
        if source != to:
            self.sequences[to] = self.sequences[source].copied_into(self.sequences[to], p0, p1)

    def keep(self) -> None:
        kept = self._sequence()
        self.session.keep(kept)
        for s, sequence in enumerate(self.sequences):
            if s != kept:
                sequence.clear()

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(self.session.memory, bool(self.rng.integers(2)))
        for sequence in self.sequences:
            sequence.clear()

    def pin(self) -> None:
        s, n = self._sequence(), int(self.rng.integers(-1, 8))
        p0 = self._position(s)
        did = retain_h.pin(self.session.handle, s, p0, p0 + n)
        self._refused(self.sequences[s].pin(p0, p0 + n), did)

    def unpin(self) -> None:
        s = self._sequence()
        p0, p1 = self._range(s)
        assert retain_h.unpin(self.session.handle, s, p0, p1)
        self.sequences[s].unpin(p0, p1)

    def set_budget(self) -> None:
        s, budget = self._sequence(), int(self.rng.integers(-1, self.options.budget + 3))
        did = retain_h.set_budget(self.session.handle, s, budget)
        self._refused(self.sequences[s].set_budget(budget, self.options.budget), did)

    def set_policy(self) -> None:
        policy = str(self.rng.choice(POLICIES))
        assert retain_h.set_policy(self.session.handle, policy.encode())
        for sequence in self.sequences:
            sequence.options = replace(sequence.options, policy=policy)

    def hold(self) -> None:
        s, hold = self._sequence(), bool(self.rng.integers(3))
        did = retain_h.hold(self.session.handle, s, hold)
        self._refused(bool(self.prefill) or not hold, did)
        if did:
            self.sequences[s].set_hold(hold)

    def save(self) -> None:
        s = self._sequence()
        state = self.session.state(s)
        self._refused(not any(sequence.shifted for sequence in self.sequences), bool(state))
        if state:
            self.saved.append((state, copy.deepcopy(self.sequences[s])))

    def restore(self) -> None:
        if self.saved:
            s = self._sequence()
            state, sequence = self.saved[self.rng.integers(len(self.saved))]
            assert self.session.restore(state, s), retain_h.error_text()
            self.sequences[s] = self._restored(sequence, self.sequences[s])

    def save_all(self) -> None:
        state = self.session.state()
        self._refused(not any(sequence.shifted for sequence in self.sequences), bool(state))
        if state:
            self.saved_all.append((state, copy.deepcopy(self.sequences)))

    def restore_all(self) -> None:
        if self.saved_all:
            state, sequences = self.saved_all[self.rng.integers(len(self.saved_all))]
            assert self.session.restore(state), retain_h.error_text()
            self.sequences = [self._restored(*pair) for pair in zip(sequences, self.sequences)]

    def _restored(self, saved: Sequence, target: Sequence) -> Sequence:
        """A saved sequence under the policy of now, which belongs to the context, and held as the one it takes the place of."""
        sequence = copy.deepcopy(saved)
        sequence.options = replace(saved.options, policy=target.options.policy)
        sequence.hold = target.hold
        return sequence

    def shift(self) -> None:
        s, delta = self._sequence(), int(self.rng.integers(-30, 31))
        p0, p1 = self._range(s) if self.rng.integers(2) else (-1, -1)
        self.session.shift(p0, p1, delta, s)
        self._refused(self.sequences[s].shift(p0, p1, delta), not retain_h.error_text())


_WEIGHTS: dict[Callable[[_Program], None], float] = {
    _Program.decode: 12,
    _Program.remove: 2,
    _Program.roll_back: 3,
    _Program.remove_of_all: 0.5,
    _Program.copy: 2,
    _Program.keep: 0.3,
    _Program.clear: 0.3,
    _Program.pin: 2,
    _Program.unpin: 1,
    _Program.set_budget: 2,
    _Program.set_policy: 1,
    _Program.hold: 1,
    _Program.save: 1,
    _Program.restore: 1.5,
    _Program.save_all: 0.5,
    _Program.restore_all: 0.7,
    _Program.shift: 1.5,
}
_OPERATIONS = [(operation.__name__, operation) for operation in _WEIGHTS]
_PROBABILITIES = np.array(list(_WEIGHTS.values())) / sum(_WEIGHTS.values())


if __name__ == "__main__":
    main(OperationFuzzer)
