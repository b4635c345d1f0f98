"""What the attention layers of a model read and compute, handed out while the model runs."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...bindings import llama_cpp
from ...bindings.graph import Node, node_at
from ...errors import RetainError

Floats = npt.NDArray[np.float32]

_ATTENTION = "RETENTION_ATTN"
_QUERY, _SINKS, _KEYS, _VALUES = 0, 6, 7, 8  # operands of the op, native/ggml/ggml-retention.c
_INPUT, _RESIDUAL, _EMBEDDING = "attn_norm", "l_out", "embd"


@dataclass(frozen=True)
class Attention:
    """One layer's attention over the tokens of one ubatch, float32; H query heads in order of their KV heads.

    hidden : [n, n_embd], what q, k and v are projections of: a gate's input.
    q : [n, H, d_k] after RoPE; k : [n, H_kv, d_k] after RoPE; v : [n, H_kv, d_v].
    out : [n, H, d_v], the weighted sums of v.
    scale, softcap : of the logits: softcap·tanh(logit / softcap), or none where it is 0.
    sinks : [H], logits that take part in the softmax and add nothing; None for none.
    """

    hidden: Floats
    q: Floats
    k: Floats
    v: Floats
    out: Floats
    scale: float
    softcap: float
    sinks: Floats | None


class AttentionWatch:
    """Sees every layer that keeps its cells in the pool, layer by layer, ubatch by ubatch.

    Attributes
    ----------
    callback : for `WatchedLlama`.
    layers : the layers in order, as `Retention.layers` names them; set before anything is read.
    see : called with (layer, Attention) when a layer has attended; None: nothing is copied.
    readers : for each layer the weight [n_embd] of the norm that reads the residual stream behind it; without one, 1.
    sizes : for each layer the sizes of the residual stream that it left behind, times that weight: an array [n] for each ubatch.
        llama.cpp computes the last layer for the tokens alone whose logits are asked for.
    """

    def __init__(self) -> None:
        self.layers: tuple[int, ...] = ()
        self.see: Callable[[int, Attention], None] | None = None
        self.readers: dict[int, Floats] = {}
        self.sizes: dict[int, list[Floats]] = {}
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self._look)
        self._error: BaseException | None = None
        self._start()

    def _start(self) -> None:
        self._at = 0  # in `layers`
        self._inputs: dict[str, Floats] = {}

    def raise_error(self) -> None:
        """Raise what went wrong since the last call: an exception cannot pass through llama.cpp."""
        error, self._error = self._error, None
        if error is not None:
            self._start()
            raise error

    def _look(self, address: int, ask: bool, _: int) -> bool:
        if self.see is None:
            return False
        try:
            node = node_at(address)
            kind = self._kind(node)
            if ask or kind == "":
                return kind != ""
            self._take(node, kind)
            return True
        except BaseException as error:  # Ctrl-C among them
            self._error = error
            return False

    def _kind(self, node: Node) -> str:
        name = node.name.decode(errors="replace")
        if (name.rpartition("-")[0] or name) in (_INPUT, _RESIDUAL, _EMBEDDING):
            return "input"
        return _ATTENTION if node.op_name == _ATTENTION else ""

    def _take(self, node: Node, kind: str) -> None:
        if kind == _ATTENTION:
            self._attend(node)
        else:
            values = node.floats()
            rows = np.ascontiguousarray(values.reshape(-1, values.shape[-1]))
            base, _, layer = node.name.decode().rpartition("-")
            if base == _RESIDUAL:
                il = int(layer)
                self.sizes.setdefault(il, []).append(np.linalg.norm(rows * self.readers.get(il, np.float32(1)), axis=1))
            self._inputs[node.name.decode()] = rows

    def _attend(self, node: Node) -> None:
        il = self.layers[self._at]
        self._at = (self._at + 1) % len(self.layers)
        query, keys, values = (node.source(i) for i in (_QUERY, _KEYS, _VALUES))
        if query is None or keys is None or values is None:
            raise RetainError(f"layer {il} reads the cells of another layer, so gates for it cannot be made")
        scale, softcap = struct.unpack("2f", bytes(node.op_params)[:8])
        sinks = node.source(_SINKS)
        assert self.see is not None
        self.see(
            il,
            Attention(
                self._input(il), query.floats()[0], keys.floats()[0], values.floats()[0], node.floats()[0],
                scale, softcap, None if sinks is None else sinks.floats()[0, 0, 0],
            ),
        )  # fmt: skip
        if self._at == 0:
            self._inputs.clear()

    def _input(self, il: int) -> Floats:
        """What q, k and v of a layer read: its input norm, or the residual stream in models that have none."""
        for name in (f"{_INPUT}-{il}", f"{_RESIDUAL}-{il - 1}" if il else _EMBEDDING):
            if name in self._inputs:
                return self._inputs[name]
        raise RetainError(f"layer {il}: llama.cpp does not name what its attention reads, so gates cannot be made")
