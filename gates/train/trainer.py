"""The training itself: steps, learning rate, and a state on disk from which a killed run goes on."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...errors import RetainError
from ...files import replaced
from .base import BaseModel
from .memory import activations_fit
from .modules import RetentionGates
from .objective import gate_losses
from .options import TrainOptions
from .rows import Rows

SAVE_SECONDS = 60.0
MAX_GRADIENT_NORM = 1.0
BETAS, WEIGHT_DECAY = (0.9, 0.999), 0.0


@dataclass(frozen=True)
class Progress:
    """One step: its number from 1, how many there are, and the numbers of `Losses` with the learning rate."""

    step: int
    n_steps: int
    losses: dict[str, float]


class Training:
    """A training of gates, which can be stopped at any moment and gone on with.

    The batch of a step follows from the seed and its number alone, so a run that was resumed does what an unbroken one
    does.

    Parameters
    ----------
    gates : as training starts.
    path : file of the state; one that is there is resumed.
    identity : what must be the same for a state to be resumed: options, base model, data.

    Raises
    ------
    RetainError : the file is of another training, or damaged.
    """

    def __init__(
        self, base: BaseModel, gates: RetentionGates, rows: Rows, options: TrainOptions, path: Path,
        identity: dict[str, Any],
    ) -> None:  # fmt: skip
        self.base, self.gates, self.rows, self.options = base, gates.to(base.device), rows, options
        self.path, self.identity = path, identity
        self.step, self._updating = 0, False
        self.optimizer = torch.optim.AdamW(
            self.gates.parameters(), lr=options.learning_rate, betas=BETAS, weight_decay=WEIGHT_DECAY
        )
        if path.exists():
            self._load()

    def run(self, on_step: Callable[[Progress], None]) -> None:
        """Train to the end, and save the state from time to time and at Ctrl-C.

        Raises
        ------
        RetainError : a loss is not a number, or the memory is too small.
        """
        options = self.options
        first = self.rows.batch(self.step, options.batch, self.base.device)
        if self.base.device.type == "cuda" and not activations_fit(self.base, self.gates, first, options):
            self.base.use_gradient_checkpointing()
        saved = time.monotonic()
        try:
            while self.step < options.steps:
                try:
                    numbers = self._train_step()
                except torch.cuda.OutOfMemoryError:
                    raise RetainError(
                        f"the GPU's memory is too small for {options.batch} rows of {options.context:,} tokens; halve"
                        " --batch, or --context"
                    ) from None
                on_step(Progress(self.step, options.steps, numbers))
                if time.monotonic() - saved > SAVE_SECONDS:
                    self.save()
                    saved = time.monotonic()
        finally:
            if self.step and not self._updating:
                self.save()

    def _train_step(self) -> dict[str, float]:
        options = self.options
        rate = learning_rate(self.step, options)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = self.rows.batch(self.step, options.batch, self.base.device)
        losses = gate_losses(self.base, self.gates, batch, options)
        self.optimizer.zero_grad()
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(self.gates.parameters(), MAX_GRADIENT_NORM)
        names = ("total", "kl", "ce", "capacity", "cells")
        values = torch.stack([getattr(losses, name).detach() for name in names])  # one wait for a GPU, not five
        numbers = dict(zip(names, values.tolist()))
        if not math.isfinite(numbers["total"]):
            raise RetainError(f"the loss of step {self.step + 1} is {numbers['total']}; try a lower --lr")
        self._updating = True  # a state in which some weights are of this step and some of the last is never saved
        self.optimizer.step()
        self.step += 1
        self._updating = False
        return numbers | {"lr": rate}

    def save(self) -> None:
        """Write the state over the last one; a run that is killed here keeps the last one."""
        state = {
            "identity": self.identity,
            "step": self.step,
            "gates": self.gates.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        try:
            with replaced(self.path) as file:
                torch.save(state, file)
        except RuntimeError as error:  # torch has an error of its own for a full disk
            raise RetainError(f"{self.path} could not be written ({_first_line(error)}): is the disk full?") from None

    def _load(self) -> None:
        try:
            state = torch.load(self.path, map_location=self.base.device, weights_only=True)
            found = state["identity"]
            differing = sorted(key for key in {*found, *self.identity} if found.get(key) != self.identity.get(key))
            if not differing:
                self.gates.load_state_dict(state["gates"])
                self.optimizer.load_state_dict(state["optimizer"])
                self.step = state["step"]
        except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
            raise RetainError(f"{self.path} is damaged ({_first_line(error)}); remove it to start over") from None
        if differing:
            raise RetainError(
                f"{self.path} is of a training with other settings ({', '.join(differing)}); name another folder,"
                " or remove it to start over"
            )


def learning_rate(step: int, options: TrainOptions) -> float:
    """Of a step, from 0: a linear rise, then a cosine to zero."""
    n_warmup = round(options.warmup * options.steps)
    if step < n_warmup:
        return options.learning_rate * (step + 1) / n_warmup
    done = (step - n_warmup) / max(1, options.steps - n_warmup)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
