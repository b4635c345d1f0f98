"""The gates in plain NumPy: what the native graph must compute, for verification."""

from __future__ import annotations

import numpy as np

from .gate_set import GateSet, Linear

_GELU_SCALE = 0.7978845608028654  # sqrt(2 / pi), of the tanh form that ggml computes


def log_beta(gates: GateSet, il: int, hidden: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    """log beta that the gate of layer `il` gives to each token.

    logsigmoid(W3 . act(W2 . act(W1 . h + b1) + b2) + b) for `rg10` (arXiv 2605.09649), the same without W2 for `rg`
    (arXiv 2512.03324).

    Parameters
    ----------
    gates : a consistent gate set.
    il : the layer, from 0.
    hidden : [n_tokens, n_embd], the output of the layer's attention input norm.
    dtype : float type of the arithmetic.

    Returns
    -------
    [n_tokens, H_kv] of `dtype`, each at most 0.
    """
    layer, final = gates.layers[il], gates.final(il)
    x: np.ndarray = np.asarray(hidden, dtype)
    for linear in (layer.hidden, layer.mid):
        if linear is not None:
            x = _ACTIVATIONS[gates.activation](_apply(linear, x))
    return _logsigmoid(_apply(final, x))


def _apply(linear: Linear, x: np.ndarray) -> np.ndarray:
    return x @ linear.weight.astype(x.dtype).T + linear.bias.astype(x.dtype)


def _logsigmoid(u: np.ndarray) -> np.ndarray:
    return np.minimum(u, 0) - np.log1p(np.exp(-np.abs(u)))


def _silu(x: np.ndarray) -> np.ndarray:
    return x * np.exp(_logsigmoid(x))


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.tanh(x.dtype.type(_GELU_SCALE) * x * (1 + x.dtype.type(0.044715) * x * x))) / 2


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


_ACTIVATIONS = {"silu": _silu, "gelu": _gelu, "relu": _relu}
