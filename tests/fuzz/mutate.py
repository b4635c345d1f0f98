"""Changes of bytes at random: single bits, lengths and counts, runs that go, come twice or change places, ends that are
cut off or grow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Seal = Callable[[bytes], bytes]

MAX_MUTATIONS = 4
MAX_RUN = 64  # bytes of a run that is moved, or added to the end

# beginnings of which one is chosen before the place in it, as counts and names come first and decide what follows
BEGINNINGS = (64, 512, 4096)


def mutate(rng: np.random.Generator, data: bytes, seal: Seal | None = None) -> bytes:
    """Data with one to four changes; it can come out equal by chance.

    Parameters
    ----------
    data : what is changed; may be empty.
    seal : returns data with the checksums that its format asks for, and data that is too short to have one as it is.
        Half of the results pass through it, so that what lies behind the checksum is tried too.
    """
    changed = bytearray(data)
    for _ in range(rng.integers(1, MAX_MUTATIONS + 1)):
        _MUTATIONS[rng.integers(len(_MUTATIONS))](rng, changed)
    result = bytes(changed)
    return seal(result) if seal is not None and rng.integers(2) else result


def place(rng: np.random.Generator, n: int) -> int:
    """An index below n, or 0 where n is 0; small ones are likelier."""
    beginnings = [m for m in BEGINNINGS if m < n] + [n]
    return int(rng.integers(max(1, beginnings[rng.integers(len(beginnings))])))


def integer(rng: np.random.Generator, n_bytes: int, n_data: int) -> bytes:
    """A little-endian number of n_bytes that a careless reader stumbles over."""
    near = int(rng.integers(-2, 3))
    value = (0, 2 ** int(rng.integers(0, 64)), n_data, n_data // 4, int(rng.integers(2**63)))[rng.integers(5)] + near
    return (value % 2 ** (8 * n_bytes)).to_bytes(n_bytes, "little")


def _flip_bit(rng: np.random.Generator, data: bytearray) -> None:
    if data:
        data[place(rng, len(data))] ^= 1 << int(rng.integers(8))


def _set_byte(rng: np.random.Generator, data: bytearray) -> None:
    if data:
        data[place(rng, len(data))] = int(rng.integers(256))


def _set_integer(rng: np.random.Generator, data: bytearray) -> None:
    n = (2, 4, 8)[rng.integers(3)]
    if len(data) >= n:
        at = place(rng, len(data) - n + 1)
        data[at : at + n] = integer(rng, n, len(data))


def _change_integer(rng: np.random.Generator, data: bytearray) -> None:
    """A number that is there, a little larger or smaller."""
    n = (4, 8)[rng.integers(2)]
    if len(data) >= n:
        at = place(rng, len(data) - n + 1)
        value = int.from_bytes(data[at : at + n], "little") + int(rng.integers(-3, 4))
        data[at : at + n] = (value % 2 ** (8 * n)).to_bytes(n, "little")


def _cut_end(rng: np.random.Generator, data: bytearray) -> None:
    """At any place, or by a few bytes only."""
    at = place(rng, len(data)) if rng.integers(2) else max(0, len(data) - int(rng.integers(1, MAX_RUN)))
    del data[at:]


def _add_end(rng: np.random.Generator, data: bytearray) -> None:
    n = int(rng.integers(1, MAX_RUN))
    data += bytes(n) if rng.integers(2) else rng.bytes(n)


def _run(rng: np.random.Generator, data: bytearray) -> slice:
    start = place(rng, len(data))
    return slice(start, min(len(data), start + int(rng.integers(1, MAX_RUN))))


def _zero_run(rng: np.random.Generator, data: bytearray) -> None:
    run = _run(rng, data)
    data[run] = bytes(len(data[run]))


def _remove_run(rng: np.random.Generator, data: bytearray) -> None:
    del data[_run(rng, data)]


def _insert_run(rng: np.random.Generator, data: bytearray) -> None:
    at = place(rng, len(data))
    data[at:at] = data[_run(rng, data)]


def _overwrite_run(rng: np.random.Generator, data: bytearray) -> None:
    """With another run of the data."""
    source = bytes(data[_run(rng, data)])
    at = place(rng, len(data))
    source = source[: len(data) - at]
    data[at : at + len(source)] = source


_MUTATIONS = (
    _flip_bit,
    _set_byte,
    _set_integer,
    _change_integer,
    _cut_end,
    _add_end,
    _zero_run,
    _remove_run,
    _insert_run,
    _overwrite_run,
)
