"""How well the bundled model answers when cells are evicted while it reads, in PyTorch.

The document is read in ubatches and cells go after each, as in the native core; then every question is asked of the
cache that is left. Evicted cells are masked rather than moved: the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import tasks
from .net import Gates, Qwen3, rope_table, rotate
from .tokenizer import Tokenizer

UBATCH = 64
FRACTIONS = (2, 4, 8, 16, 32)


class EvictingModel:
    """A model that reads one sequence with a budget.

    Parameters
    ----------
    model, gates : Qwen3, Gates
    policy : callable
        ``policy(score, n_cells)`` gives the cells to keep, bool [L, H_kv, n], from the scores of the held ones (-inf
        for the others) and the number M L H_kv that may stay.
    budget : int or None
        M; None keeps everything.
    """

    def __init__(self, model: Qwen3, gates: Gates, policy: Callable[[Tensor, int], Tensor], budget: int | None):
        config = model.config
        self.model, self.gates, self.policy, self.budget = model, gates, policy, budget
        self.k = [torch.empty(config.n_head_kv, 0, config.head_dim) for _ in range(config.n_layer)]
        self.v = list(self.k)
        self.log_beta = torch.empty(config.n_layer, config.n_head_kv, 0)
        self.held = torch.empty(config.n_layer, config.n_head_kv, 0, dtype=torch.bool)

    def fork(self) -> EvictingModel:
        """A copy that goes its own way; tensors are replaced and never written, so they can be shared."""
        other = object.__new__(EvictingModel)
        other.__dict__ = self.__dict__ | {"k": list(self.k), "v": list(self.v)}
        return other

    @torch.no_grad()
    def read(self, ids: Tensor) -> Tensor:
        """Take in tokens [n], evicting after each ubatch. Logits of the last one, [n_vocab]."""
        for chunk in ids.split(UBATCH):
            hidden = self._forward(chunk)
            self._evict()
        return self.model.logits(hidden[-1])

    def answer(self, ids: Tensor, n_max: int, stop: int) -> list[int]:
        """Take in a prompt and continue it greedily until ``stop``."""
        tokens, logits = [], self.read(ids)
        while len(tokens) < n_max and (token := int(logits.argmax())) != stop:
            tokens.append(token)
            logits = self.read(torch.tensor([token]))
        return tokens

    def _forward(self, ids: Tensor) -> Tensor:
        config = self.model.config
        start, n = self.held.shape[-1], len(ids)
        rope = tuple(table[start:] for table in rope_table(config, start + n))
        new = torch.ones(config.n_layer, config.n_head_kv, n, dtype=torch.bool)
        self.held = torch.cat((self.held, new), dim=-1)
        causal = torch.ones(n, start + n, dtype=torch.bool).tril(start)
        group, log_beta = config.n_head // config.n_head_kv, []
        x = self.model.embed(ids)
        for layer, block in enumerate(self.model.blocks):
            h, attn = block.attn_norm(x), block.attn
            log_beta.append(self.gates(layer, h).T)
            q = rotate(attn.q_norm(attn.q(h).view(n, -1, config.head_dim)).transpose(0, 1), rope)
            k = rotate(attn.k_norm(attn.k(h).view(n, -1, config.head_dim)).transpose(0, 1), rope)
            v = attn.v(h).view(n, -1, config.head_dim).transpose(0, 1)
            self.k[layer], self.v[layer] = torch.cat((self.k[layer], k), 1), torch.cat((self.v[layer], v), 1)
            mask = (causal & self.held[layer][:, None]).repeat_interleave(group, dim=0)
            logits = q @ self.k[layer].repeat_interleave(group, dim=0).transpose(1, 2) * config.head_dim**-0.5
            mixed = logits.masked_fill(~mask, -torch.inf).softmax(-1) @ self.v[layer].repeat_interleave(group, dim=0)
            x = x + attn.out(mixed.transpose(0, 1).reshape(n, -1))
            x = x + block.feed_forward(x)
        self.log_beta = torch.cat((self.log_beta, torch.stack(log_beta)), dim=-1)
        return self.model.norm(x)

    def _evict(self) -> None:
        n_seen, limit = self.held.shape[-1], (self.budget or 0) * self.held.shape[0] * self.held.shape[1]
        if self.budget is None or self.held.sum() <= limit:
            return
        age = n_seen + 1.0 - torch.arange(n_seen)
        score = (age * self.log_beta).masked_fill(~self.held, -torch.inf)
        self.held = self.policy(score, limit) & self.held


def _highest(score: Tensor, n: int) -> Tensor:
    """True at the n highest scores of the last axis; of equal ones the newest."""
    order = score.flip(-1).argsort(dim=-1, descending=True, stable=True)[..., :n]
    return torch.zeros_like(score, dtype=torch.bool).scatter(-1, order, True).flip(-1)


def keep_global(score: Tensor, n_cells: int) -> Tensor:
    """One budget for the model: cells of all layers and heads compete."""
    newest_last = score.permute(2, 0, 1)
    return _highest(newest_last.flatten(), n_cells).view_as(newest_last).permute(1, 2, 0)


def keep_per_head(score: Tensor, n_cells: int) -> Tensor:
    """The same budget for every head."""
    return _highest(score, n_cells // (score.shape[0] * score.shape[1]))


def keep_window(score: Tensor, n_cells: int) -> Tensor:
    """The most recent cells of every head."""
    return keep_per_head(torch.arange(score.shape[-1]).expand_as(score), n_cells)


POLICIES = {"global gates": keep_global, "gates per head": keep_per_head, "window": keep_window}


def accuracy(
    model: Qwen3,
    gates: Gates,
    tokenizer: Tokenizer,
    policy: Callable[[Tensor, int], Tensor],
    fraction: int | None,
    seeds: range,
    document_tokens: int = 512,
) -> float:
    """Share of questions answered exactly, each asked of what is left after the document.

    Parameters
    ----------
    fraction : int or None
        The budget is the document's turn divided by this; None keeps everything.
    seeds : range
        Of `tasks.demo_sample`; training never draws these.
    """
    stop, right, asked = tokenizer.token_to_id("<|im_end|>"), 0, 0
    for seed in seeds:
        sample = tasks.demo_sample(seed, document_tokens)
        turns = tasks.messages(sample)
        document = torch.tensor(tokenizer.encode(tasks.render(turns[:2])).ids)
        reader = EvictingModel(model, gates, policy, len(document) // fraction if fraction else None)
        reader.read(document)
        for question, answer in sample.questions:
            prompt = tasks.render([{"role": "user", "content": question}], add_generation_prompt=True)
            tokens = reader.fork().answer(torch.tensor(tokenizer.encode(prompt).ids), 12, stop)
            right, asked = right + (tokenizer.decode(tokens) == answer), asked + 1
    return right / asked


def table(model: Qwen3, gates: Gates, tokenizer: Tokenizer, n_samples: int, document_tokens: int = 512) -> str:
    """Accuracy of every policy at every budget, as text."""
    seeds = range(n_samples)
    full = accuracy(model, gates, tokenizer, keep_global, None, seeds, document_tokens)
    lines = [f"full cache      {full:6.1%}", "budget          " + "".join(f"{f'1/{f}':>7}" for f in FRACTIONS)]
    for name, policy in POLICIES.items():
        row = (accuracy(model, gates, tokenizer, policy, f, seeds, document_tokens) for f in FRACTIONS)
        lines.append(f"{name:16}" + "".join(f"{value:7.1%}" for value in row))
    return "\n".join(lines)
