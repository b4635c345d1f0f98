"""What the gate of one layer is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...models.gguf_header import GateFileError


def checked_array(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An array in float32 C order; GateFileError unless it has exactly this shape and only finite numbers."""
    array = np.asarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise GateFileError(f"{name}: type {array.dtype} is not a float type")
    if array.shape != shape:
        raise GateFileError(f"{name}: shape {list(array.shape)} is not {list(shape)}")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, which the next line refuses
        array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(array).all():
        raise GateFileError(f"{name}: not all numbers are finite")
    return array


@dataclass(frozen=True)
class Linear:
    """weight [n_out, n_in] and bias [n_out]."""

    weight: np.ndarray
    bias: np.ndarray

    def checked(self, name: str, n_out: int, n_in: int) -> Linear:
        """This projection in float32; GateFileError unless it has exactly this shape and only finite numbers."""
        return Linear(
            checked_array(f"{name}.weight", self.weight, (n_out, n_in)),
            checked_array(f"{name}.bias", self.bias, (n_out,)),
        )

    def tensors(self, name: str) -> Iterator[tuple[str, np.ndarray]]:
        """Name and array of both."""
        yield f"{name}.weight", self.weight
        yield f"{name}.bias", self.bias


@dataclass(frozen=True)
class LayerGate:
    """The gate of one layer, of any form but `fast_kvzip`.

    hidden : W1, b1 [F, n_embd]; None in `linear`.
    mid : W2, b2 [F, F] of `rg10`; None in the others.
    score : the final projection [H_kv, F], in `linear` [H_kv, n_embd]; None when it is tied.
    """

    hidden: Linear | None = None
    mid: Linear | None = None
    score: Linear | None = None

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """Name and array of every tensor, in the order of the file, without the layer."""
        parts = {"retention_in": self.hidden, "retention_mid": self.mid, "retention_score": self.score}
        for name, linear in parts.items():
            if linear is not None:
                yield from linear.tensors(name)


@dataclass(frozen=True)
class KVzipGate:
    """The gate of one layer of Fast KVzip (arXiv 2601.17668): an attention of d numbers a head, beside S base keys.

        q_g = norm(Wq . h + bq)      k = norm(Wk . h)      norm(x) = x / sqrt(mean of x^2 + 1e-6) * weight
        u   = mean over g of 1 / (1 + sum over j of exp(q_g . base_j / sqrt(d) - q_g . k / sqrt(d) - b_g))

    for each of H KV heads, with G queries g.

    q : Wq, bq [H*G*d, n_embd]. k : Wk [H*d, n_embd].
    q_norm, k_norm : [d].
    base : [H*S, d].
    bias : b [H*G].
    """

    q: Linear
    k: np.ndarray
    q_norm: np.ndarray
    k_norm: np.ndarray
    base: np.ndarray
    bias: np.ndarray

    @property
    def n_key(self) -> int:
        """d"""
        return len(self.q_norm)

    @property
    def n_head_kv(self) -> int:
        """H"""
        return len(self.k) // self.n_key

    @property
    def n_group(self) -> int:
        """G"""
        return len(self.bias) // self.n_head_kv

    @property
    def n_base(self) -> int:
        """S"""
        return len(self.base) // self.n_head_kv

    def checked(self, name: str, first: KVzipGate) -> KVzipGate:
        """This gate in float32; GateFileError unless its d, G and S are those of `first`, and all fits together."""
        if 0 in (np.size(self.q_norm), np.size(self.k), np.size(self.base), np.size(self.bias)):
            raise GateFileError(f"{name}: a size of the gate is 0")
        if min(self.n_head_kv, self.n_group, self.n_base) < 1:
            raise GateFileError(f"{name}: the sizes of the gate do not fit each other")
        n_embd, n_head = np.shape(first.k)[-1], self.n_head_kv
        n_key, n_group, n_base = first.n_key, first.n_group, first.n_base
        return KVzipGate(
            self.q.checked(f"{name}.retention_q", n_head * n_group * n_key, n_embd),
            checked_array(f"{name}.retention_k.weight", self.k, (n_head * n_key, n_embd)),
            checked_array(f"{name}.retention_q_norm.weight", self.q_norm, (n_key,)),
            checked_array(f"{name}.retention_k_norm.weight", self.k_norm, (n_key,)),
            checked_array(f"{name}.retention_base.weight", self.base, (n_head * n_base, n_key)),
            checked_array(f"{name}.retention_score.bias", self.bias, (n_head * n_group,)),
        )

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """Name and array of every tensor, in the order of the file, without the layer."""
        yield from self.q.tensors("retention_q")
        yield "retention_k.weight", self.k
        yield "retention_q_norm.weight", self.q_norm
        yield "retention_k_norm.weight", self.k_norm
        yield "retention_base.weight", self.base
        yield "retention_score.bias", self.bias
