"""The layers of the stand-in for DeepMind's Perceiver: linear maps, norms, attention, MLP, with Haiku's names."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import nn


class Recorded(dict[str, torch.Tensor]):
    """What has been recorded; copies of a model record in the same place."""

    def __deepcopy__(self, _: Any) -> Recorded:
        return self


TRACE = Recorded()


def record(name: str, value: torch.Tensor) -> torch.Tensor:
    """Keep a value under the name that the cases trace it by."""
    TRACE[name] = value.detach().clone()
    return value


class Linear(nn.Module):
    """x w + b, w (inputs, outputs), or that of a 1 x 1 convolution, (1, 1, inputs, outputs)."""

    def __init__(self, haiku: str, inputs: int, outputs: int, kernel: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.haiku = haiku
        self.w, self.b = nn.Parameter(torch.zeros(*kernel, inputs, outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Any) -> Any:
        return x @ self.w.reshape(self.w.shape[-2:]) + self.b


class LayerNorm(nn.Module):
    """Over the last axis, with scale and offset."""

    def __init__(self, haiku: str, width: int) -> None:
        super().__init__()
        self.haiku, self.eps = haiku, 1e-5
        self.scale, self.offset = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Any) -> Any:
        return nnf.layer_norm(x, x.shape[-1:], self.scale, self.offset, self.eps)


class Table(nn.Module):
    """A trained table (positions, latents, token embeddings)."""

    def __init__(self, haiku: str, rows: int, width: int, leaf: str = "pos_embs") -> None:
        super().__init__()
        self.haiku = haiku
        setattr(self, leaf, nn.Parameter(torch.zeros(rows, width)))
        self.leaf = leaf

    def forward(self, batch: int) -> Any:
        return getattr(self, self.leaf).expand(batch, -1, -1)


class Attention(nn.Module):
    """Multi-head attention; rows with every key masked give zero."""

    def __init__(self, haiku: str, q: int, kv: int, qk: int, v: int, out: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = Linear(f"{haiku}/linear", q, qk)
        self.key = Linear(f"{haiku}/linear_1", kv, qk)
        self.value = Linear(f"{haiku}/linear_2", kv, v)
        self.output = Linear(f"{haiku}/linear_3", v, out)

    def split(self, x: Any) -> Any:
        x = x.unflatten(-1, (self.heads, -1))
        return x.transpose(1, 2)

    def forward(self, inputs_q: Any, inputs_kv: Any, mask: Any = None) -> Any:
        q = self.query(inputs_q)
        k = self.key(inputs_kv)
        v = self.value(inputs_kv)
        q, k, v = self.split(q), self.split(k), self.split(v)
        scores = q @ k.transpose(-1, -2)
        scores = scores * (1.0 / math.sqrt(q.shape[-1]))
        if mask is not None:
            scores = torch.where(mask[:, None].bool(), scores, -1e30)
        weights = scores.softmax(dim=-1)
        summed = weights @ v
        summed = summed.transpose(1, 2).flatten(2)
        if mask is not None:
            summed = summed.masked_fill((~mask.bool()).all(-1)[:, :, None], 0.0)
        return self.output(summed)


class MLP(nn.Module):
    """Two linear maps with GELU (tanh) between."""

    def __init__(self, haiku: str, width: int, widening: int) -> None:
        super().__init__()
        self.dense1 = Linear(f"{haiku}/linear", width, widening * width)
        self.dense2 = Linear(f"{haiku}/linear_1", widening * width, width)

    def forward(self, x: Any) -> Any:
        x = self.dense1(x)
        x = nnf.gelu(x, approximate="tanh")
        return self.dense2(x)


class SelfAttention(nn.Module):
    """Attention and MLP with their norms and residuals."""

    def __init__(self, haiku: str, width: int, qk: int | None, v: int | None, heads: int, widening: int) -> None:
        super().__init__()
        qk = qk or width
        self.norm = LayerNorm(f"{haiku}/layer_norm", width)
        self.attention = Attention(f"{haiku}/attention", width, width, qk, v or qk, v or qk, heads)
        self.mlp_norm = LayerNorm(f"{haiku}/layer_norm_1", width)
        self.mlp = MLP(f"{haiku}/mlp", width, widening)

    def forward(self, inputs: Any) -> Any:
        x = inputs
        qkv_inputs = self.norm(inputs)
        attention = self.attention(qkv_inputs, qkv_inputs)
        x = x + attention
        x = x + self.mlp(self.mlp_norm(x))
        return x


class CrossAttention(nn.Module):
    """As self-attention, of queries to other inputs."""

    def __init__(
        self,
        haiku: str,
        q: int,
        kv: int,
        *,
        qk: int | None,
        v: int | None,
        heads: int,
        widening: int,
        use_query_residual: bool,
        shape: str = "kv",
    ) -> None:
        super().__init__()
        qk = qk or (kv if shape == "kv" else q)
        self.use_query_residual = use_query_residual
        self.norm = LayerNorm(f"{haiku}/layer_norm", q)
        self.kv_norm = LayerNorm(f"{haiku}/layer_norm_1", kv)
        self.attention = Attention(f"{haiku}/attention", q, kv, qk, v or qk, q, heads)
        self.mlp_norm = LayerNorm(f"{haiku}/layer_norm_2", q)
        self.mlp = MLP(f"{haiku}/mlp", q, widening)

    def forward(self, inputs_q: Any, inputs_kv: Any, mask: Any = None) -> Any:
        q_inputs = self.norm(inputs_q)
        kv_inputs = self.kv_norm(inputs_kv)
        attention = self.attention(q_inputs, kv_inputs, mask)
        if self.use_query_residual:
            x = inputs_q + attention
        else:
            x = attention
        x = x + self.mlp(self.mlp_norm(x))
        return x
