"""Types of the K and V rows: names, ggml numbers, bytes."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import UsageError


@dataclass(frozen=True)
class KVType:
    """A type that a cell's rows can have: `block` numbers take `block_bytes` bytes."""

    name: str
    ggml: int
    block: int
    block_bytes: int

    @property
    def is_quantized(self) -> bool:
        return self.block > 1

    def row_bytes(self, n: int) -> int:
        """Bytes of a row of n numbers."""
        return -(-n // self.block) * self.block_bytes


KV_TYPES = {
    type.name: type
    for type in (
        KVType("f32", 0, 1, 4),
        KVType("f16", 1, 1, 2),
        KVType("bf16", 30, 1, 2),
        KVType("q8_0", 8, 32, 34),
        KVType("q4_0", 2, 32, 18),
    )
}

_BY_NUMBER = {type.ggml: type for type in KV_TYPES.values()}


def kv_type(value: str | int | None) -> KVType:
    """The type for a name, a `llama_cpp.GGML_TYPE_*` number, or None (f16, the default of llama.cpp).

    Raises
    ------
    UsageError : a type that a cache cannot have.
    """
    if value is None or isinstance(value, str):
        found = KV_TYPES.get("f16" if value is None else value.lower())
    else:
        found = _BY_NUMBER.get(value) if isinstance(value, int) and not isinstance(value, bool) else None
    if found is None:
        raise UsageError(f"KV type {value!r} is not one of {', '.join(KV_TYPES)}")
    return found
