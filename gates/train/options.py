"""The settings of a training, checked; importing this needs no PyTorch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ...errors import UsageError
from ...option_table import check, option
from ..sidecar.variants import RG, RG10, VARIANTS

START_BIAS = {RG10: 18.0, RG: 10.0}  # beta near 1 everywhere: training starts from the full cache
LOSSES = ("all", "assistant")
DTYPES = ("auto", "f32", "bf16")
_TEXT, _GATES, _LOSSES, _MACHINE = "Training", "Gates", "Losses", "Machine"
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class TrainOptions:
    """How gates are trained; each field's `Option` says what it is. The defaults are the papers' (arXiv 2605.09649,
    2512.03324) where they name one. `device` and `dtype` are the base model's.
    """

    budget: int = option(
        128, "M: cells for each (layer, KV head) that the gates learn to make do with.", _TEXT, int, least=1
    )
    context: int = option(4096, "Tokens of a row.", _TEXT, int, least=2)
    steps: int = option(1000, "Updates.", _TEXT, int, least=1)
    batch: int = option(4, "Rows of an update.", _TEXT, int, least=1)
    learning_rate: float = option(2e-4, "Highest learning rate.", _LOSSES, float, above=0, flag="lr", rare=True)
    warmup: float = option(
        0.03, "Share of the steps in which the learning rate rises, before it falls along a cosine.", _LOSSES, float,
        least=0, most=0.999, rare=True,
    )  # fmt: skip
    variant: str = option(RG10, "rg10: global; rg: made for a budget per head.", _GATES, str, choices=lambda: VARIANTS)
    tied: bool = option(
        True, "rg10 with a final projection for each layer instead of one.", _GATES, bool, flag="untied", inverted=True,
        rare=True,
    )  # fmt: skip
    gate_size: int = option(512, "F: width of the gates, a multiple of 32.", _GATES, int, least=32, rare=True)
    start_bias: float | None = option(
        None, "Of the final projection.", _GATES, float, unset="18 for rg10, 10 for rg", rare=True
    )
    capacity_weight: float = option(
        1.0, "Weight of the loss that asks for the budget.", _LOSSES, float, least=0, rare=True
    )
    kl_weight: float = option(0.5, "Weight of the divergence from the full cache.", _LOSSES, float, least=0, rare=True)
    ce_weight: float = option(0.5, "Weight of next-token prediction.", _LOSSES, float, least=0, rare=True)
    loss: str = option(
        "all", "Tokens that count: all, or those that the assistant says.", _LOSSES, str, choices=lambda: LOSSES,
        rare=True,
    )  # fmt: skip
    seed: int = option(0, "Of everything that is drawn at random.", _TEXT, int)
    device: str = option("auto", "auto, cpu or cuda.", _MACHINE, str, choices=lambda: DEVICES)
    dtype: str = option(
        "auto",
        "Of the base model: f32, bf16, or auto: bf16 on a GPU.",
        _MACHINE,
        str,
        choices=lambda: DTYPES,
        rare=True,
    )

    def __post_init__(self) -> None:
        check(self)
        if self.gate_size % 32:
            raise UsageError(f"gate-size is {self.gate_size}; it must be a multiple of 32, or q8_0 cannot hold it")
        if self.kl_weight + self.ce_weight == 0:
            raise UsageError("the weights of KL and cross-entropy must be not both 0")
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
