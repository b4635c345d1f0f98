"""The settings of a training, checked; importing this needs no PyTorch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ...errors import UsageError
from ...options.table import check, option
from ..sidecar.variants import RG, RG10, TRAINED_VARIANTS

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
        128, "The budget M in training: cells for each (layer, KV head) on average.", _TEXT, int, least=1
    )
    context: int = option(4096, "How many tokens a row of training text has.", _TEXT, int, least=2)
    steps: int = option(1000, "How many updates of the gates to make.", _TEXT, int, least=1)
    batch: int = option(4, "How many rows one update reads.", _TEXT, int, least=1)
    learning_rate: float = option(2e-4, "The highest learning rate.", _LOSSES, float, above=0, flag="lr", rare=True)
    warmup: float = option(
        0.03, "The share of the steps in which the learning rate rises; after them it falls along a cosine.", _LOSSES, float,
        least=0, most=0.999, rare=True,
    )  # fmt: skip
    variant: str = option(
        RG10,
        "The form of the gates: rg10 for a global budget, rg for one per head.",
        _GATES,
        str,
        choices=lambda: TRAINED_VARIANTS,
    )
    tied: bool = option(
        True, "Give every layer a final projection of its own (rg10).", _GATES, bool, flag="untied", inverted=True,
        rare=True,
    )  # fmt: skip
    gate_size: int = option(512, "The width F of the gates, a multiple of 32.", _GATES, int, least=32, rare=True)
    start_bias: float | None = option(
        None,
        "The bias of the final projection before training.",
        _GATES,
        float,
        unset="18 for rg10, 10 for rg",
        rare=True,
    )
    capacity_weight: float = option(
        1.0,
        "The weight of the capacity loss, which is 0 when all cells fit the budget.",
        _LOSSES,
        float,
        least=0,
        rare=True,
    )
    kl_weight: float = option(
        0.5, "The weight of the KL divergence from the full cache.", _LOSSES, float, least=0, rare=True
    )
    ce_weight: float = option(0.5, "The weight of the next-token cross-entropy.", _LOSSES, float, least=0, rare=True)
    loss: str = option(
        "all", "Which tokens the loss counts: all, or those of the assistant.", _LOSSES, str, choices=lambda: LOSSES,
        rare=True,
    )  # fmt: skip
    seed: int = option(0, "The seed of everything that is drawn at random.", _TEXT, int)
    device: str = option(
        "auto",
        "Where to train: cpu, cuda, or auto, which is cuda if there is a GPU.",
        _MACHINE,
        str,
        choices=lambda: DEVICES,
    )
    dtype: str = option(
        "auto",
        "The type of the base model's weights: f32, bf16, or auto, which is bf16 on a GPU.",
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
