"""The settings of a training, checked; importing this needs no PyTorch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ...errors import UsageError
from ..sidecar.gate_set import RG, RG10, VARIANTS

START_BIAS = {RG10: 18.0, RG: 10.0}  # beta near 1 everywhere: training starts from the full cache
LOSSES = ("all", "assistant")
DTYPES = ("auto", "f32", "bf16")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class TrainOptions:
    """How gates are trained. The defaults are the papers' (arXiv 2605.09649, 2512.03324) where they name one.

    variant : `rg10` or `rg`.
    tied : one final projection for all layers (`rg10` only).
    gate_size : F.
    start_bias : of the final projection; None: 18 for `rg10`, 10 for `rg`.
    budget : M, cells per (layer, KV head) that the capacity loss asks for.
    context : tokens of a row.
    batch : rows of a step.
    steps : updates.
    learning_rate, warmup : of AdamW; the share of steps in which it rises before it falls along a cosine.
    capacity_weight, kl_weight, ce_weight : of the losses.
    loss : tokens that count: "all", or those that the assistant says.
    seed : of the weights and of the order of the data.
    device, dtype : of the base model; "auto" is a GPU in bf16 if there is one, else the CPU in f32.
    """

    variant: str = RG10
    tied: bool = True
    gate_size: int = 512
    start_bias: float | None = None
    budget: int = 128
    context: int = 4096
    batch: int = 4
    steps: int = 1000
    learning_rate: float = 2e-4
    warmup: float = 0.03
    capacity_weight: float = 1.0
    kl_weight: float = 0.5
    ce_weight: float = 0.5
    loss: str = "all"
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        for name, choices in (("variant", VARIANTS), ("loss", LOSSES), ("device", DEVICES), ("dtype", DTYPES)):
            if getattr(self, name) not in choices:
                raise UsageError(f"{name} {getattr(self, name)!r} is not one of {', '.join(choices)}")
        for name, least in (("gate_size", 1), ("budget", 1), ("context", 2), ("batch", 1), ("steps", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name.replace('_', '-')} is {getattr(self, name)}; it must be at least {least}")
        if self.gate_size % 32:
            raise UsageError(f"gate-size is {self.gate_size}; it must be a multiple of 32, or q8_0 cannot hold it")
        if not self.learning_rate > 0:
            raise UsageError(f"lr is {self.learning_rate}; it must be more than 0")
        if not 0 <= self.warmup < 1:
            raise UsageError(f"warmup is {self.warmup}; it must be a share of the steps, 0 to 1")
        weights = self.capacity_weight, self.kl_weight, self.ce_weight
        if min(weights) < 0 or self.kl_weight + self.ce_weight == 0:
            raise UsageError("the weights of the losses must not be negative, and KL and cross-entropy not both 0")
        if self.budget >= self.context:
            raise UsageError(f"a budget of {self.budget} never bites in a context of {self.context} tokens")

    @property
    def is_tied(self) -> bool:
        return self.tied and self.variant == RG10

    @property
    def bias(self) -> float:
        return START_BIAS[self.variant] if self.start_bias is None else self.start_bias

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
