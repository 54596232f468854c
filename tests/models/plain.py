"""Perceiver IO's layers once more, as loops over float64 NumPy arrays: what the models are tested against.

Shares no code with the package. `p` is a tree of parameters in the package's structure; equations from Perceiver IO
(Jaegle et al. 2021, arXiv 2107.14795), appendix E.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Tree = Any


def linear(p: Tree, x: np.ndarray) -> np.ndarray:
    return np.einsum("...i,io->...o", x, p["weight"]) + p.get("bias", 0.0)


def layer_norm(p: Tree, x: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    out = np.empty_like(x)
    for index in np.ndindex(x.shape[:-1]):
        row = x[index]
        mean = sum(row) / len(row)
        variance = sum((value - mean) ** 2 for value in row) / len(row)
        out[index] = (row - mean) / math.sqrt(variance + eps) * p["scale"] + p["offset"]
    return out


def gelu_erf(x: float) -> float:
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def gelu_tanh(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {
    "gelu_erf": gelu_erf,
    "gelu_tanh": gelu_tanh,
    "relu": lambda x: max(x, 0.0),
    "squared_relu": lambda x: max(x, 0.0) ** 2,
    "silu": lambda x: x / (1 + math.exp(-x)),
}


def mlp(p: Tree, x: np.ndarray, activation: str) -> np.ndarray:
    """Gated where there are weights for it (Shazeer 2020, arXiv 2002.05202, eq. 5)."""
    hidden, function = linear(p["hidden"], x), np.vectorize(ACTIVATIONS[activation], otypes=[float])
    return linear(p["output"], function(linear(p["gate"], x)) * hidden if "gate" in p else function(hidden))


def attention(
    p: Tree,
    x: np.ndarray,
    z: np.ndarray,
    heads: int,
    masked_rows: str,
    mask: np.ndarray | None = None,
    bias: np.ndarray | None = None,
) -> np.ndarray:
    """mask (B, N, M), bias (B, H, N, M)."""
    q, k, v = linear(p["query"], x), linear(p["key"], z), linear(p["value"], z)
    (batch, queries, _), keys = q.shape, k.shape[1]
    d, e = q.shape[-1] // heads, v.shape[-1] // heads
    mixed = np.zeros((batch, queries, v.shape[-1]))
    for b, n, h in np.ndindex(batch, queries, heads):
        values = v[b, :, h * e : (h + 1) * e]
        allowed = [m for m in range(keys) if mask is None or mask[b, n, m]]
        if not allowed:
            average = values.mean(0) if masked_rows != "zero" else 0.0
            mixed[b, n, h * e : (h + 1) * e] = average
            continue
        query = q[b, n, h * d : (h + 1) * d]
        logits = [
            query @ k[b, m, h * d : (h + 1) * d] / math.sqrt(d) + (0 if bias is None else bias[b, h, n, m])
            for m in allowed
        ]
        weights = [math.exp(logit - max(logits)) for logit in logits]
        mixed[b, n, h * e : (h + 1) * e] = sum(w * values[m] for w, m in zip(weights, allowed)) / sum(weights)
    return linear(p["output"], mixed)


def cross_attention(p: Tree, x: np.ndarray, z: np.ndarray, *, like: Any, mask: Any = None, bias: Any = None) -> Any:
    """A cross-attention layer with the options of `like`, a `CrossAttention`'s hyper-parameters."""
    chosen = like.conventions
    q, kv = layer_norm(p["query_norm"], x), layer_norm(p["key_value_norm"], z)
    attended = attention(p["attention"], q, kv, like.heads, chosen.masked_rows, mask, bias)
    x = x + attended if like.query_residual else attended
    return x + mlp(p["mlp"], layer_norm(p["mlp_norm"], x), chosen.activation)


def self_attention(p: Tree, x: np.ndarray, heads: int, conventions: Any) -> np.ndarray:
    normed = layer_norm(p["norm"], x)
    x = x + attention(p["attention"], normed, normed, heads, conventions.masked_rows)
    return x + mlp(p["mlp"], layer_norm(p["mlp_norm"], x), conventions.activation)


def encoder(p: Tree, inputs: np.ndarray, *, like: Any, mask: Any = None, bias: Any = None) -> np.ndarray:
    """mask (B, M), bias (B, H, N, M); `like` is the `Encoder`."""
    batch, latents = inputs.shape[0], p["latents"]
    x = np.stack([latents] * batch)
    rows = None if mask is None else np.stack([mask] * latents.shape[0], axis=1)
    options = _Layer(like.cross_heads, like.query_residual, like.conventions)
    for b in range(like.blocks):
        if b < like.cross_attends:
            weights = p["cross_attention"] if _first(b, like.shared_cross) else _later(p["later_cross_attentions"], b)
            x = cross_attention(weights, x, inputs, like=options, mask=rows, bias=bias)
        for layer in p["block"] if _first(b, like.shared_blocks) else _later(p["later_blocks"], b):
            x = self_attention(layer, x, like.self_heads, like.conventions)
    return x


def _first(repetition: int, shared: str) -> bool:
    return repetition == 0 or shared == "all"


def _later(weights: list[Tree], repetition: int) -> Tree:
    """Those of this repetition, or the only ones."""
    return weights[repetition - 1] if len(weights) > 1 else weights[0]


def decoder(p: Tree, latents: np.ndarray, queries: np.ndarray, *, like: Any, query_mask: Any = None) -> np.ndarray:
    """queries (B, O, D), query_mask (B, O); `like` is the `Decoder`."""
    rows = None if query_mask is None else np.stack([query_mask] * latents.shape[1], axis=2)
    options = _Layer(like.heads, like.query_residual, like.conventions)
    x = cross_attention(p["cross_attention"], queries, latents, like=options, mask=rows)
    return x if like.outputs is None else linear(p["output"], x)


class _Layer:
    """The options of one cross-attention."""

    def __init__(self, heads: int, query_residual: bool, conventions: Any) -> None:
        self.heads, self.query_residual, self.conventions = heads, query_residual, conventions
