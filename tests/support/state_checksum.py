"""The checksum of a saved state's payload, for tests that change what it stands for."""

from __future__ import annotations

import struct


def state_checksum(payload: bytes) -> int:
    """As `native/src/retain-state.cpp` computes it."""
    h = 0x9E3779B97F4A7C15 ^ len(payload)
    whole = len(payload) // 8 * 8
    for word in (*struct.unpack(f"<{whole // 8}Q", payload[:whole]), *payload[whole:]):
        h = (h ^ word) * 0xFF51AFD7ED558CCD % 2**64
        h ^= h >> 32
    return h
