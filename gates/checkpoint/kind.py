"""What a kind of checkpoint is: who reads it, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..sidecar.gate_set import GateSet
from .files import CheckpointFiles


@dataclass(frozen=True)
class About:
    """What a checkpoint says about its gates; None, or "", where it does not.

    model_type : of the base model's language model, by its name in transformers.
    base_model : repository or path of the base model.
    trained_budget : M in training; a fraction of the sequence where it is below 1.
    trained_context_length : tokens of context in training.
    license : of the checkpoint, where `config.json` names it.
    """

    model_type: str = ""
    base_model: str | None = None
    trained_budget: float | None = None
    trained_context_length: int | None = None
    license: str | None = None


@dataclass(frozen=True)
class ReadGates:
    """The gates of a checkpoint, checked; and what its user should know about them, a line each."""

    gates: GateSet
    about: About
    remarks: tuple[str, ...] = ()


class Kind(Protocol):
    """A kind of checkpoint, a module each."""

    name: str

    def fits(self, files: CheckpointFiles) -> bool:
        """Whether the files are of this kind, by their names alone; they may still be wrong."""

    def read(self, files: CheckpointFiles, base: Path | None) -> ReadGates:
        """Check and read the gates; `base` is the GGUF of the model that they are for, where it was named.

        Raises
        ------
        CheckpointError : a tensor or an entry that is missing, that has no place, or is not what it must be.
        """
