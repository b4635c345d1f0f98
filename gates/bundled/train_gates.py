"""Train the retention gates of the frozen base model.

Every cell fades as the sequence goes on: beta^(t - i) of cell i is left at token t, which is a bias of
(t - i) log beta_i on the attention logits. The student so made must say what the full cache says (KL) and what is right
(cross-entropy), while what is left over all layers and heads must fit a small budget (the capacity hinge). The sums
follow "Make Each Token Count" (arXiv 2605.09649).
"""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from .checkpoint import load, save
from .net import Gates, Qwen3
from .tokenizer import Tokenizer
from .train_model import recall_batch

LENGTHS = {256: 0.7, 512: 0.3}  # and how often each is drawn
BUDGET = 12  # M in training
TOKENS_PER_STEP = 4096
STEPS = 700
LEARNING_RATE = 2e-3
WARMUP_SHARE = 0.03
CAPACITY_WEIGHT = 1.0
LOG_EVERY, SAVE_EVERY = 20, 50


class FadingCache:
    """The attention bias that the gates make, and the capacity that they use.

    Call it as the ``log_beta`` of `Qwen3.forward`; then read ``capacity``.
    """

    def __init__(self, gates: Gates, n_tokens: int):
        self.gates = gates
        positions = torch.arange(n_tokens)
        self.age = (positions[:, None] - positions).clamp(min=0).float()
        self.causal = torch.full((n_tokens, n_tokens), -torch.inf).triu(1)
        self.used = torch.zeros(())  # S_t: cells left at token t over the layers and heads so far, [B, T]

    def __call__(self, layer: int, h: Tensor) -> Tensor:
        log_beta = self.gates(layer, h).transpose(1, 2)
        bias = self.age * log_beta[:, :, None, :] + self.causal
        self.used = self.used + bias.exp().sum(dim=(1, 3))
        return bias

    def capacity(self, budget: int, n_heads: int) -> Tensor:
        """Mean excess over the budget, relative to the most there could be, where there is any.

        ``n_heads`` counts the KV heads of all layers.
        """
        tokens = torch.arange(1, self.used.shape[1] + 1)
        excess = (self.used - budget * n_heads) / (tokens * n_heads - budget * n_heads).clamp(min=1)
        over = excess > 0
        return excess[over].mean() if over.any() else excess.new_zeros(())


def gate_loss(model: Qwen3, gates: Gates, ids: Tensor, weight: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Half of KL and cross-entropy, averaged by weight, plus the capacity hinge; and the parts for the log."""
    inputs, weight = ids[:, :-1], weight[:, 1:] / weight[:, 1:].sum()
    config = model.config
    with torch.no_grad():
        teacher = model.logits(model(inputs)).log_softmax(-1)
    cache = FadingCache(gates, inputs.shape[1])
    student = model.logits(model(inputs, cache)).log_softmax(-1)
    divergence = (F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1) * weight).sum()
    entropy = -(student.gather(-1, ids[:, 1:, None])[..., 0] * weight).sum()
    capacity = cache.capacity(BUDGET, config.n_layer * config.n_head_kv)
    parts = {"kl": divergence.item(), "ce": entropy.item(), "capacity": capacity.item()}
    return 0.5 * (divergence + entropy) + CAPACITY_WEIGHT * capacity, parts


def learning_rate(step: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    warmup = max(1, round(WARMUP_SHARE * STEPS))
    if step < warmup:
        return LEARNING_RATE * (step + 1) / warmup
    return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup)))


def train_gates(model: Qwen3, tokenizer: Tokenizer, work: Path, seed: int, log=print) -> Gates:
    """Train to the end, from the checkpoint in ``work`` if there is one."""
    path = work / "gates.pt"
    torch.manual_seed(seed)
    gates = Gates(model.config)
    model.requires_grad_(False)
    optimizer = torch.optim.AdamW(gates.parameters(), weight_decay=0.0)
    state = {"step": 0} | load(path, gates, optimizer)
    while state["step"] < STEPS:
        rng = Random(f"gates-{seed}-{state['step']}")
        length = rng.choices(list(LENGTHS), LENGTHS.values())[0]
        ids, weight, _ = recall_batch(rng, tokenizer, TOKENS_PER_STEP // length, length)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(state["step"])
        loss, parts = gate_loss(model, gates, ids, weight)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(gates.parameters(), 1.0)
        optimizer.step()
        state["step"] += 1
        if state["step"] % LOG_EVERY == 0:
            log(f"gates: step {state['step']} of {STEPS}, " + ", ".join(f"{k} {v:.3f}" for k, v in parts.items()))
        if state["step"] % SAVE_EVERY == 0 or state["step"] == STEPS:
            save(path, gates, optimizer, state)
    return gates
