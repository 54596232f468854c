"""Perceiver IO of bare matrices: heads are an axis of the weights, einsum does the rest; no biases in attention.

Only whole layers are modules, so that a recording has nothing from inside them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CONFIG: dict[str, Any] = {
    "type": "PerceiverIO",
    "encoder": {
        "type": "Encoder",
        "inputs": 11,
        "latents": 4,
        "channels": 10,
        "layers": 2,
        "cross_heads": 1,
        "self_heads": 2,
        "qk_channels": 6,
        "v_channels": 10,
        "self_qk_channels": 14,
        "self_v_channels": 10,
        "cross_widening": 1,
        "self_widening": 3,
    },
    "decoder": {
        "type": "Decoder",
        "latent_channels": 10,
        "query_channels": 8,
        "queries": {
            "type": "PositionQueries",
            "positions": {"type": "TrainablePositions", "size": 3, "channels": 8},
            "index_dims": [3],
        },
        "outputs": 5,
        "heads": 1,
        "qk_channels": 7,
        "v_channels": 9,
    },
}


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * shape[-2] ** -0.5)


class Layer(nn.Module):
    """x of width d; y of width e is attended to; h heads of width k (queries, keys) and m (values)."""

    def __init__(
        self, d: int, e: int, h: int, k: int, m: int, widen: int, *, keep: bool = True, own: bool = False
    ) -> None:
        super().__init__()
        self.keep, self.own = keep, own
        self.W_O, self.W_V, self.W_K, self.W_Q = weight(h, m, d), weight(h, e, m), weight(h, e, k), weight(h, d, k)
        self.W_in, self.b_in = weight(d, widen * d), nn.Parameter(torch.zeros(widen * d))
        self.W_out, self.b_out = weight(widen * d, d), nn.Parameter(torch.zeros(d))
        self.ln1_w, self.ln1_b = nn.Parameter(torch.ones(d)), nn.Parameter(torch.zeros(d))
        self.ln2_w, self.ln2_b = nn.Parameter(torch.ones(d)), nn.Parameter(torch.zeros(d))
        if not own:
            self.lny_w, self.lny_b = nn.Parameter(torch.ones(e)), nn.Parameter(torch.zeros(e))

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        normed = nn.functional.layer_norm(x, x.shape[-1:], self.ln1_w, self.ln1_b)
        seen = normed if self.own else nn.functional.layer_norm(y, y.shape[-1:], self.lny_w, self.lny_b)
        q = torch.einsum("bnd,hdk->bhnk", normed, self.W_Q)
        k = torch.einsum("bme,hek->bhmk", seen, self.W_K)
        v = torch.einsum("bme,hew->bhmw", seen, self.W_V)
        pattern = torch.softmax(torch.einsum("bhnk,bhmk->bhnm", q, k) / q.shape[-1] ** 0.5, -1)
        z = torch.einsum("bhnm,bhmw,hwd->bnd", pattern, v, self.W_O)
        x = x + z if self.keep else z
        hidden = nn.functional.layer_norm(x, x.shape[-1:], self.ln2_w, self.ln2_b) @ self.W_in + self.b_in
        return x + nn.functional.gelu(hidden, approximate="tanh") @ self.W_out + self.b_out


class HookedPerceiver(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.W_latent, self.W_query, self.W_U = weight(4, 10), weight(3, 8), weight(8, 5)
        self.b_U = nn.Parameter(torch.zeros(5))
        self.embed = Layer(10, 11, 1, 6, 10, 1)
        self.layers = nn.ModuleList([Layer(10, 10, 2, 7, 5, 3, own=True) for _ in range(2)])
        self.unembed = Layer(8, 10, 1, 7, 9, 1, keep=False)

    def forward(self, resid: torch.Tensor) -> torch.Tensor:
        x = self.embed(self.W_latent.expand(len(resid), -1, -1), resid)
        for layer in self.layers:
            x = layer(x)
        return self.unembed(self.W_query.expand(len(resid), -1, -1), x) @ self.W_U + self.b_U


def port() -> tuple[nn.Module, torch.Tensor]:
    """The module, and what it is called with."""
    return HookedPerceiver(), torch.randn(3, 13, 11)
