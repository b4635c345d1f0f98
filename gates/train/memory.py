"""Whether a step's activations fit the GPU, or must be computed twice."""

from __future__ import annotations

from dataclasses import fields

import torch

from .base import BaseModel
from .modules import RetentionGates
from .objective import gate_losses
from .options import TrainOptions
from .rows import Batch

_USABLE = 0.8  # of the free memory: what is allocated in pieces does not fill it


def activations_fit(base: BaseModel, gates: RetentionGates, batch: Batch, options: TrainOptions) -> bool:
    """Measure a step of one row, and say whether all rows at once fit beside what is there; on a GPU only."""
    row = Batch(*(getattr(batch, field.name)[:1] for field in fields(batch)))
    before = torch.cuda.memory_allocated(base.device)
    torch.cuda.reset_peak_memory_stats(base.device)
    try:
        gate_losses(base, gates, row, options).total.backward()
    except torch.cuda.OutOfMemoryError:
        return False
    finally:
        gates.zero_grad()
        torch.cuda.empty_cache()
    needed = (torch.cuda.max_memory_allocated(base.device) - before) * len(batch.ids)
    free, _ = torch.cuda.mem_get_info(base.device)
    return needed < _USABLE * free
