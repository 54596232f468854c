"""Perceiver IO with one map for query, key and value, in the manner of einops: rearrange, attend, rearrange back."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CONFIG: dict[str, Any] = {
    "type": "PerceiverIO",
    "encoder": {
        "type": "Encoder",
        "inputs": 7,
        "latents": 5,
        "channels": 12,
        "blocks": 2,
        "layers": 2,
        "cross_heads": 2,
        "self_heads": 3,
        "attend_in": "q",
        "cross_widening": 2,
        "self_widening": 4,
        "conventions": {"type": "Conventions", "activation": "gelu_erf", "masked_rows": "zero", "grid": "compute"},
    },
    "decoder": {
        "type": "Decoder",
        "latent_channels": 12,
        "query_channels": 10,
        "queries": {
            "type": "PositionQueries",
            "positions": {"type": "TrainablePositions", "size": 6, "channels": 10},
            "index_dims": [6],
        },
        "outputs": 3,
        "heads": 2,
        "qk_channels": 14,
        "widening": 2,
        "conventions": {"type": "Conventions", "activation": "gelu_erf", "masked_rows": "zero", "grid": "compute"},
    },
}


def softmax_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bhij,bhjd->bhid", (torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5).softmax(-1), v)


class FeedForward(nn.Sequential):
    def __init__(self, dim: int, mult: int) -> None:
        super().__init__(nn.LayerNorm(dim), nn.Linear(dim, dim * mult), nn.GELU(), nn.Linear(dim * mult, dim))


class Mix(nn.Module):
    """Self-attention, fused as (heads, 3, width of a head)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.prenorm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * dim)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        qkv = self.to_qkv(self.prenorm(x)).reshape(b, n, self.heads, 3, -1)
        q, k, v = qkv.permute(3, 0, 2, 1, 4)
        return self.to_out(softmax_attention(q, k, v).permute(0, 2, 1, 3).flatten(2))


class Read(nn.Module):
    """Cross-attention, keys and values fused as (2, heads, width of a head)."""

    def __init__(self, dim: int, context: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_q, self.norm_kv = nn.LayerNorm(dim), nn.LayerNorm(context)
        self.to_q = nn.Linear(dim, inner)
        self.to_kv = nn.Linear(context, 2 * inner)
        self.to_out = nn.Linear(inner, dim)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q = self.to_q(self.norm_q(x)).reshape(b, n, self.heads, -1).transpose(1, 2)
        k, v = self.to_kv(self.norm_kv(context)).reshape(b, context.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.to_out(softmax_attention(q, k, v).permute(0, 2, 1, 3).flatten(2))


class Slots(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slots = nn.Parameter(torch.randn(5, 12))
        self.targets = nn.Parameter(torch.randn(6, 10))
        self.read, self.read_ff = Read(12, 7, 2, 12), FeedForward(12, 2)
        self.mixers = nn.ModuleList(nn.ModuleList([Mix(12, 3), FeedForward(12, 4)]) for _ in range(2))
        self.write, self.write_ff = Read(10, 12, 2, 14), FeedForward(10, 2)
        self.head = nn.Linear(10, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.slots.expand(len(tokens), -1, -1)
        x = x + self.read(x, tokens)
        x = x + self.read_ff(x)
        for _ in range(2):
            for mix, ff in self.mixers:
                x = x + mix(x)
                x = x + ff(x)
        y = self.write(self.targets.expand(len(tokens), -1, -1), x)
        return self.head(y + self.write_ff(y))


def port() -> tuple[nn.Module, torch.Tensor]:
    """The module, and what it is called with."""
    return Slots(), torch.randn(2, 9, 7)
