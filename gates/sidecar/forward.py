"""The gates in plain NumPy: what the native graph must compute, for verification."""

from __future__ import annotations

import math

import numpy as np

from .gate_set import GateSet
from .parts import KVzipGate, Linear

_GELU_SCALE = 0.7978845608028654  # sqrt(2 / pi), of the tanh form that ggml computes
_NORM_EPS = 1e-6  # of the norms of Fast KVzip's gates


def gate_output(gates: GateSet, il: int, hidden: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    """What the gate of the model's layer `il` gives each token: log beta, or the score itself where it is static.

    The formulas are those of `gate_set` and `parts.KVzipGate`.

    Parameters
    ----------
    gates : a consistent gate set.
    il : the layer of the model, from 0.
    hidden : [n_tokens, n_embd], the output of the layer's attention input norm.
    dtype : float type of the arithmetic.

    Returns
    -------
    [n_tokens, H_kv] of `dtype`; log beta is at most 0.

    Raises
    ------
    GateFileError : the layer has no gate.
    """
    at = gates.gate_at(il)
    layer = gates.layers[at]
    x: np.ndarray = np.asarray(hidden, dtype)
    if isinstance(layer, KVzipGate):
        return _fast_kvzip(layer, x)
    for linear in (layer.hidden, layer.mid):
        if linear is not None:
            x = _ACTIVATIONS[gates.activation](_apply(linear, x))
    u = _apply(gates.final(at), x)
    return u if gates.is_static else _logsigmoid(u)


def _fast_kvzip(gate: KVzipGate, h: np.ndarray) -> np.ndarray:
    n_tokens, n_head, n_key, dtype = len(h), gate.n_head_kv, gate.n_key, h.dtype
    q = _rms_norm(_apply(gate.q, h).reshape(n_tokens, n_head, gate.n_group, n_key), gate.q_norm)
    k = _rms_norm((h @ gate.k.astype(dtype).T).reshape(n_tokens, n_head, n_key), gate.k_norm)
    base = gate.base.astype(dtype).reshape(n_head, gate.n_base, n_key)
    scale = dtype.type(n_key) ** dtype.type(-0.5)
    own = np.einsum("thgd,thd->thg", q, k) * scale + gate.bias.astype(dtype).reshape(n_head, gate.n_group)
    others = np.einsum("thgd,hsd->thgs", q, base) * scale
    with np.errstate(over="ignore"):  # exp of a large number is inf, and 1/inf the right answer
        share = 1 / (1 + np.exp(others - own[..., None]).sum(-1))
    return share.mean(-1)


def _rms_norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + x.dtype.type(_NORM_EPS)) * weight.astype(x.dtype)


def _apply(linear: Linear, x: np.ndarray) -> np.ndarray:
    return x @ linear.weight.astype(x.dtype).T + linear.bias.astype(x.dtype)


def _logsigmoid(u: np.ndarray) -> np.ndarray:
    return np.minimum(u, 0) - np.log1p(np.exp(-np.abs(u)))


def _silu(x: np.ndarray) -> np.ndarray:
    return x * np.exp(_logsigmoid(x))


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.tanh(x.dtype.type(_GELU_SCALE) * x * (1 + x.dtype.type(0.044715) * x * x))) / 2


def _gelu_erf(x: np.ndarray) -> np.ndarray:
    return x * (1 + _erf(x * x.dtype.type(2**-0.5))).astype(x.dtype) / 2


_erf = np.vectorize(math.erf, otypes=[np.float64])  # NumPy has none


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


_ACTIVATIONS = {"silu": _silu, "gelu": _gelu, "gelu_erf": _gelu_erf, "relu": _relu}
