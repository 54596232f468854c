"""Perceiver IO of PyTorch's own parts: nn.MultiheadAttention, in_proj_weight and all."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_RELU: dict[str, Any] = {"type": "Conventions", "activation": "relu", "masked_rows": "zero", "grid": "compute"}
CONFIG: dict[str, Any] = {
    "type": "PerceiverIO",
    "encoder": {
        "type": "Encoder",
        "inputs": 6,
        "latents": 7,
        "channels": 8,
        "layers": 3,
        "cross_heads": 2,
        "self_heads": 4,
        "attend_in": "q",
        "cross_widening": 3,
        "self_widening": 2,
        "conventions": _RELU,
    },
    "decoder": {
        "type": "Decoder",
        "latent_channels": 8,
        "query_channels": 15,
        "queries": {
            "type": "PositionQueries",
            "positions": {"type": "TrainablePositions", "size": 4, "channels": 15},
            "index_dims": [4],
        },
        "outputs": 5,
        "heads": 3,
        "attend_in": "q",
        "widening": 1,
        "query_residual": True,
        "conventions": _RELU,
    },
}


class AttentionBlock(nn.Module):
    def __init__(self, embed: int, heads: int, expansion: int, memory: int | None = None) -> None:
        super().__init__()
        self.layernorm_1 = nn.LayerNorm(embed)
        self.layernorm_mem = None if memory is None else nn.LayerNorm(memory)
        self.mha = nn.MultiheadAttention(embed, heads, kdim=memory, vdim=memory, batch_first=True)
        self.layernorm_2 = nn.LayerNorm(embed)
        self.linear1 = nn.Linear(embed, embed * expansion)
        self.linear2 = nn.Linear(embed * expansion, embed)

    def forward(self, tgt: torch.Tensor, memory: torch.Tensor | None = None) -> torch.Tensor:
        query = self.layernorm_1(tgt)
        keys = query if memory is None else self.layernorm_mem(memory)
        tgt = tgt + self.mha(query, keys, keys, need_weights=False)[0]
        return tgt + self.linear2(torch.relu(self.linear1(self.layernorm_2(tgt))))


class LatentTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.output_tokens = nn.Embedding(4, 15)
        self.tokens = nn.Embedding(7, 8)
        self.encode = AttentionBlock(8, 2, 3, memory=6)
        self.process = nn.Sequential(*[AttentionBlock(8, 4, 2) for _ in range(3)])
        self.decode = AttentionBlock(15, 3, 1, memory=8)
        self.logits = nn.Linear(15, 5)

    def forward(self, src: torch.Tensor) -> torch.Tensor:
        batch = src.shape[0]
        latent = self.encode(self.tokens.weight.unsqueeze(0).repeat(batch, 1, 1), src)
        latent = self.process(latent)
        return self.logits(self.decode(self.output_tokens.weight.unsqueeze(0).repeat(batch, 1, 1), latent))


def port() -> tuple[nn.Module, torch.Tensor]:
    """The module, and what it is called with."""
    return LatentTransformer(), torch.randn(3, 11, 6)
