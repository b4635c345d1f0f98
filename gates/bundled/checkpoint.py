"""Checkpoints of a training run: written whole or not at all, read back if they are there."""

from __future__ import annotations

from pathlib import Path

import torch

from ...files import replaced


def save(path: Path, module: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Write a checkpoint over the last one; a run that is killed here keeps the last one."""
    with replaced(path) as file:
        torch.save({"module": module.state_dict(), "optimizer": optimizer.state_dict(), "state": state}, file)


def load(path: Path, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """Restore a checkpoint and return its state; an empty one if there is none yet."""
    if not path.exists():
        return {}
    checkpoint = torch.load(path, weights_only=True)
    module.load_state_dict(checkpoint["module"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    return checkpoint["state"]
