"""Qwen3 and its retention gates in PyTorch, as small as they can be written and still match llama.cpp's graph."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# the start of the previous-token head, see Qwen3._start_previous_token_head
EMBEDDING_STD, SHARED_COMPONENT, N_SHARP_FREQUENCIES, FIRST_LAYER_GAIN = 0.022, 0.5, 4, 1.5


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of the base model. ``n_head_kv`` must divide ``n_head``."""

    n_vocab: int
    n_layer: int = 3
    n_embd: int = 128
    n_head: int = 4
    n_head_kv: int = 2
    head_dim: int = 32
    n_ff: int = 320
    rope_base: float = 10000.0
    norm_eps: float = 1e-6


def rope_table(config: Config, n_positions: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotation, each [n_positions, head_dim]."""
    inverse = config.rope_base ** (-torch.arange(0, config.head_dim, 2) / config.head_dim)
    angle = torch.outer(torch.arange(n_positions), inverse).repeat(1, 2)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the halves of each head (the "neox" order). x is [..., n_positions, head_dim]."""
    first, second = x.chunk(2, dim=-1)
    return x * rope[0] + torch.cat((-second, first), dim=-1) * rope[1]


class Attention(nn.Module):
    """Grouped-query attention with normalised queries and keys."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.q = nn.Linear(config.n_embd, config.n_head * config.head_dim, bias=False)
        self.k = nn.Linear(config.n_embd, config.n_head_kv * config.head_dim, bias=False)
        self.v = nn.Linear(config.n_embd, config.n_head_kv * config.head_dim, bias=False)
        self.out = nn.Linear(config.n_head * config.head_dim, config.n_embd, bias=False)
        self.q_norm = nn.RMSNorm(config.head_dim, config.norm_eps)
        self.k_norm = nn.RMSNorm(config.head_dim, config.norm_eps)

    def forward(self, h: Tensor, rope: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
        """Attend over ``h`` [B, T, n_embd]; ``bias`` is [B, n_head_kv, T, T] with the causal mask in it, or None."""
        config, (n_batch, n_tokens, _) = self.config, h.shape
        q = rotate(self.q_norm(self.q(h).view(n_batch, n_tokens, -1, config.head_dim)).transpose(1, 2), rope)
        k = rotate(self.k_norm(self.k(h).view(n_batch, n_tokens, -1, config.head_dim)).transpose(1, 2), rope)
        v = self.v(h).view(n_batch, n_tokens, -1, config.head_dim).transpose(1, 2)
        group = config.n_head // config.n_head_kv
        k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
        if bias is None:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            logits = q @ k.transpose(-1, -2) * config.head_dim**-0.5 + bias.repeat_interleave(group, dim=1)
            mixed = logits.softmax(dim=-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(n_batch, n_tokens, -1))


class Block(nn.Module):
    """Attention and a SwiGLU, each behind its norm."""

    def __init__(self, config: Config):
        super().__init__()
        self.attn_norm = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.attn = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.gate = nn.Linear(config.n_embd, config.n_ff, bias=False)
        self.up = nn.Linear(config.n_embd, config.n_ff, bias=False)
        self.down = nn.Linear(config.n_ff, config.n_embd, bias=False)

    def feed_forward(self, x: Tensor) -> Tensor:
        h = self.ffn_norm(x)
        return self.down(F.silu(self.gate(h)) * self.up(h))


class Qwen3(nn.Module):
    """The base model. Embedding and output matrix are one."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.n_vocab, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.RMSNorm(config.n_embd, config.norm_eps)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # what writes into the residual stream starts small
                shrink = (2 * config.n_layer) ** -0.5 if name.endswith(("out.weight", "down.weight")) else 1.0
                nn.init.normal_(parameter, std=shrink * parameter.shape[1] ** -0.5)
        self._start_previous_token_head()

    @torch.no_grad()
    def _start_previous_token_head(self) -> None:
        """Let the first KV head of the first layer look at the token before.

        Induction is made of such a head and one that builds on it. Left to chance, neither gives the other anything to
        learn from for millions of tokens. All embeddings share a component; the head maps it to a fixed query, and to
        the key that is this query rotated by one position, on the frequencies that tell neighbours apart.
        """
        config, attn = self.config, self.blocks[0].attn
        nn.init.normal_(self.embed.weight, std=EMBEDDING_STD)
        self.embed.weight[:, 0] = SHARED_COMPONENT
        query = torch.zeros(config.head_dim)
        query[:N_SHARP_FREQUENCIES] = SHARED_COMPONENT
        one_position = tuple(table[1] for table in rope_table(config, 2))
        group = config.n_head // config.n_head_kv
        attn.q.weight[: group * config.head_dim, 0] = query.repeat(group)
        attn.k.weight[: config.head_dim, 0] = rotate(query, one_position)
        attn.q_norm.weight.fill_(FIRST_LAYER_GAIN)
        attn.k_norm.weight.fill_(FIRST_LAYER_GAIN)

    def forward(self, ids: Tensor, log_beta=None) -> Tensor:
        """Hidden states after the last norm, [B, T, n_embd], for tokens [B, T].

        Parameters
        ----------
        ids : Tensor
        log_beta : callable, optional
            ``log_beta(layer, h)`` gives the attention bias [B, n_head_kv, T, T] of a layer from the output of its
            attention norm; without it, attention is causal and no more.
        """
        rope = rope_table(self.config, ids.shape[1])
        x = self.embed(ids)
        for layer, block in enumerate(self.blocks):
            h = block.attn_norm(x)
            x = x + block.attn(h, rope, log_beta(layer, h) if log_beta else None)
            x = x + block.feed_forward(x)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.embed.weight.T


class Gates(nn.Module):
    """Retention gates of the variant rg10: a network per layer, one projection to the KV heads for all of them."""

    def __init__(self, config: Config, n_hidden: int = 64, start_bias: float = 8.0):
        super().__init__()
        self.inner = nn.ModuleList(nn.Linear(config.n_embd, n_hidden) for _ in range(config.n_layer))
        self.middle = nn.ModuleList(nn.Linear(n_hidden, n_hidden) for _ in range(config.n_layer))
        self.score = nn.Linear(n_hidden, config.n_head_kv)
        # beta near 1 everywhere: training starts from the full cache
        nn.init.constant_(self.score.bias, start_bias)

    def forward(self, layer: int, h: Tensor) -> Tensor:
        """Log beta [B, T, n_head_kv] of tokens with normed inputs ``h`` [B, T, n_embd]."""
        u = F.silu(self.middle[layer](F.silu(self.inner[layer](h))))
        return F.logsigmoid(self.score(u))
