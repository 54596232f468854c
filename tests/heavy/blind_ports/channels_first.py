"""Perceiver IO with channels first, from the inputs to the outputs: every linear map is a convolution of width 1."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_CONVENTIONS: dict[str, Any] = {
    "type": "Conventions",
    "activation": "silu",
    "masked_rows": "zero",
    "grid": "compute",
    "norm_eps": 1e-6,
}
CONFIG: dict[str, Any] = {
    "type": "PerceiverIO",
    "encoder": {
        "type": "Encoder",
        "inputs": 5,
        "latents": 6,
        "channels": 16,
        "layers": 2,
        "cross_heads": 1,
        "self_heads": 2,
        "attend_in": "q",
        "cross_widening": 1,
        "self_widening": 2,
        "conventions": _CONVENTIONS,
    },
    "decoder": {
        "type": "Decoder",
        "latent_channels": 16,
        "query_channels": 9,
        "queries": {
            "type": "PositionQueries",
            "positions": {"type": "TrainablePositions", "size": 7, "channels": 9},
            "index_dims": [7],
        },
        "outputs": 4,
        "heads": 3,
        "attend_in": "q",
        "conventions": _CONVENTIONS,
    },
}


class ChannelNorm(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, c, 1))
        self.beta = nn.Parameter(torch.zeros(1, c, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(1, keepdim=True)
        return centred * torch.rsqrt(centred.pow(2).mean(1, keepdim=True) + 1e-6) * self.gamma + self.beta


class ConvAttention(nn.Module):
    def __init__(self, c: int, c_ctx: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.conv_k = nn.Conv1d(c_ctx, c, 1)
        self.conv_v = nn.Conv1d(c_ctx, c, 1)
        self.conv_q = nn.Conv1d(c, c, 1)
        self.conv_o = nn.Conv1d(c, c, 1)

    def forward(self, x: torch.Tensor, ctx: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.unflatten(1, (self.n_head, -1)) for t in (self.conv_q(x), self.conv_k(ctx), self.conv_v(ctx)))
        attn = (q.transpose(2, 3) @ k / q.shape[2] ** 0.5).softmax(-1)  # (B, heads, N, M)
        return self.conv_o((v @ attn.transpose(2, 3)).flatten(1, 2))


class ConvMLP(nn.Module):
    def __init__(self, c: int, ratio: int) -> None:
        super().__init__()
        self.expand, self.squeeze = nn.Conv1d(c, c * ratio, 1), nn.Conv1d(c * ratio, c, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.squeeze(nn.functional.silu(self.expand(x)))


class Stage(nn.Module):
    def __init__(self, c: int, n_head: int, ratio: int, c_ctx: int | None = None, skip: bool = True) -> None:
        super().__init__()
        self.skip = skip
        self.n2, self.n1 = ChannelNorm(c), ChannelNorm(c)
        self.n_ctx = None if c_ctx is None else ChannelNorm(c_ctx)
        self.mlp = ConvMLP(c, ratio)
        self.attn = ConvAttention(c, c_ctx or c, n_head)

    def forward(self, x: torch.Tensor, ctx: torch.Tensor | None = None) -> torch.Tensor:
        h = self.n1(x)
        mixed = self.attn(h, h if ctx is None else self.n_ctx(ctx))
        x = x + mixed if self.skip else mixed
        return x + self.mlp(self.n2(x))


class SpectralPerceiver(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Conv1d(9, 4, 1)
        self.decoder = Stage(9, 3, 1, 16, skip=False)
        self.encoder = Stage(16, 1, 1, 5)
        self.trunk = nn.ModuleList([Stage(16, 2, 2), Stage(16, 2, 2)])
        self.z0 = nn.Parameter(torch.randn(1, 16, 6))
        self.q0 = nn.Parameter(torch.randn(1, 9, 7))

    def forward(self, spectrum: torch.Tensor) -> torch.Tensor:
        z = self.encoder(self.z0.expand(len(spectrum), -1, -1), spectrum)
        for stage in self.trunk:
            z = stage(z)
        return self.classifier(self.decoder(self.q0.expand(len(spectrum), -1, -1), z))


def port() -> tuple[nn.Module, torch.Tensor]:
    """The module, and what it is called with: (batch, channels, positions)."""
    return SpectralPerceiver(), torch.randn(2, 5, 10)
