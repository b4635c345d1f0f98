"""The gates as a PyTorch module, and as the arrays that are saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..sidecar.gate_set import GateSet, LayerGate, Linear
from ..sidecar.variants import RG10

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu, "gelu": lambda x: F.gelu(x, approximate="tanh"), "gelu_erf": F.gelu, "relu": F.relu
}  # fmt: skip


class RetentionGates(nn.Module):
    """Gates of all layers, in float32 whatever the base model is in.

    Parameters
    ----------
    n_layer : layers with gates.
    n_embd, n_head_kv : sizes of the base model.
    n_ff : F.
    variant : `rg10` or `rg`.
    tied : one final projection for all layers (`rg10` only).
    activation : a name of `ACTIVATIONS`.
    start_bias : of the final projection.
    """

    def __init__(
        self, n_layer: int, n_embd: int, n_head_kv: int, n_ff: int, variant: str, tied: bool, activation: str,
        start_bias: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.variant, self.tied, self.activation = variant, tied, activation
        self.hidden = nn.ModuleList(nn.Linear(n_embd, n_ff) for _ in range(n_layer))
        self.mid = nn.ModuleList(nn.Linear(n_ff, n_ff) for _ in range(n_layer if variant == RG10 else 0))
        self.score = nn.ModuleList(nn.Linear(n_ff, n_head_kv) for _ in range(1 if tied else n_layer))
        for final in self.score:
            nn.init.constant_(final.bias, start_bias)

    def forward(self, layer: int, h: Tensor) -> Tensor:
        """Log beta [B, T, H_kv] float32 of tokens whose normed inputs to the layer's attention are h [B, T, n_embd]."""
        with torch.autocast(h.device.type, enabled=False):
            act = ACTIVATIONS[self.activation]
            u = act(self.hidden[layer](h.float()))
            if self.variant == RG10:
                u = act(self.mid[layer](u))
            return F.logsigmoid(self.score[0 if self.tied else layer](u))

    def gate_set(self, layers: Sequence[int] | None = None, n_layer: int | None = None) -> GateSet:
        """The gates as NumPy arrays, which share no memory with the module.

        Parameters
        ----------
        layers, n_layer : which of how many layers the gates are of; None: all.
        """
        gates = tuple(
            LayerGate(
                _linear(hidden),
                _linear(self.mid[il]) if self.variant == RG10 else None,
                None if self.tied else _linear(self.score[il]),
            )
            for il, hidden in enumerate(self.hidden)
        )
        score = _linear(self.score[0]) if self.tied else None
        indices = None if layers is None else tuple(layers)
        return GateSet(gates, score, self.activation, indices=indices, block_count=n_layer)


def _linear(module: nn.Linear) -> Linear:
    weight, bias = (parameter.detach().cpu().numpy().copy() for parameter in (module.weight, module.bias))
    return Linear(weight, bias)
