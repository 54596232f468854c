"""The architectures in plain NumPy, on two screens: read this file first.

Each function is its equation, for one example without a batch axis; `p` are parameters, nested dicts with the names
that the models' own have. No options, no speed, no gradients: `docs/SPEC.md` has the prose, and the models, which the
tests hold against this file, have the rest. A mask is True where a query may attend to a key.

    M inputs of C channels, N latents of D channels, O output queries
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import erf

Array = Any  # np.ndarray, which mypy loses in arithmetic
Params = dict[str, Any]
Function = Callable[[Array], Array]
Heads = tuple[int, int]
"""Of cross-attention and of self-attention."""

# ---- operations


def linear(x: Array, p: Params) -> Array:
    """x W + b: (N, D) -> (N, E); W (D, E), b (E,), which some maps lack."""
    return x @ p["weight"] + p.get("bias", 0.0)


def layer_norm(x: Array, p: Params) -> Array:
    """(x - mean) / sqrt(variance + 1e-5) * scale + offset, row by row: (N, D) -> (N, D) (Ba et al. 2016, eq. 3, 4)."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p["scale"] + p["offset"]


def gelu(x: Array) -> Array:
    """x Phi(x), Phi the normal distribution function (Hendrycks and Gimpel 2016, section 2)."""
    return x * (1 + erf(x / math.sqrt(2))) / 2


def squared_relu(x: Array) -> Array:
    """max(x, 0)^2 (So et al. 2021), in Flamingo's layers."""
    return np.maximum(x, 0) ** 2


def mlp(x: Array, p: Params, activation: Function = gelu) -> Array:
    """Two linear maps and an activation: (N, D) -> (N, D)."""
    return linear(activation(linear(x, p["hidden"])), p["output"])


def attention(x: Array, z: Array, p: Params, heads: int, mask: Array | None = None) -> Array:
    """x (N, D) attends to z (M, C): (N, D). Head h: softmax(q k^T / sqrt(d)) v (Perceiver IO, appendix E, eq. 1 to 4).

    mask (N, M); a query that may attend to nothing gets 0 before the last map.
    """
    q, k, v = (np.split(linear(y, p[name]), heads, -1) for y, name in ((x, "query"), (z, "key"), (z, "value")))
    mixed = []
    for q_h, k_h, v_h in zip(q, k, v):  # (N, d), (M, d), (M, e)
        scores = q_h @ k_h.T / math.sqrt(q_h.shape[-1])  # (N, M)
        scores = scores if mask is None else np.where(mask, scores, -np.inf)
        e = np.exp(scores - np.maximum(scores.max(-1, keepdims=True), np.finfo(scores.dtype).min))
        mixed.append(e / np.maximum(e.sum(-1, keepdims=True), np.finfo(e.dtype).tiny) @ v_h)
    return linear(np.concatenate(mixed, -1), p["output"])


# ---- layers: pre-norm and residual (Perceiver, section 3.2; Perceiver IO, appendix E, eq. 5 to 7)


def cross_attention(
    x: Array, z: Array, p: Params, heads: int, mask: Array | None = None, residual: bool = True
) -> Array:
    """x (N, D) attends to z (M, C), then an MLP: (N, D). Some decoders leave the first residual out."""
    q, kv = layer_norm(x, p["query_norm"]), layer_norm(z, p["key_value_norm"])
    attended = attention(q, kv, p["attention"], heads, mask)
    x = x + attended if residual else attended
    return x + mlp(layer_norm(x, p["mlp_norm"]), p["mlp"])


def self_attention(x: Array, p: Params, heads: int, mask: Array | None = None) -> Array:
    """x (N, D) attends to itself, then an MLP: (N, D)."""
    normed = layer_norm(x, p["norm"])
    x = x + attention(normed, normed, p["attention"], heads, mask)
    return x + mlp(layer_norm(x, p["mlp_norm"]), p["mlp"])


# ---- positions


def fourier_features(x: Array, bands: int, resolution: tuple[int, ...]) -> Array:
    """[x, sin(pi f x), cos(pi f x)] of x (..., A) in [-1, 1]: (..., A (2 bands + 1)) (Perceiver, section 3.2).

    Axis a of the grid has `bands` frequencies f, evenly from 1 to half of its resolution.
    """
    angles = [math.pi * x[..., a, None] * np.linspace(1, n / 2, bands) for a, n in enumerate(resolution)]
    return np.concatenate([x, *map(np.sin, angles), *map(np.cos, angles)], -1)


def rotary(x: Array, positions: Array, frequencies: Array) -> Array:
    """Channels 2n and 2n + 1 of x (N, d) turned by frequency n times the position (Su et al. 2021, eq. 34)."""
    angle = positions[:, None] * frequencies  # (N, d / 2)
    even, odd, cos, sin = x[:, ::2], x[:, 1::2], np.cos(angle), np.sin(angle)
    return np.stack([even * cos - odd * sin, odd * cos + even * sin], -1).reshape(x.shape)


# ---- models


def encoder(inputs: Array, p: Params, crosses: int, blocks: int, heads: Heads, mask: Array | None = None) -> Array:
    """inputs (M, C) -> latents (N, D): the block of self-attentions again and again, the first `crosses` times after
    attention to the inputs (Perceiver, section 3.1). Blocks share their weights; so do cross-attentions but the first.
    """
    z = p["latents"]  # (N, D)
    for n in range(blocks):
        if n < crosses:
            weights = p["later_cross_attentions"][0] if n else p["cross_attention"]
            z = cross_attention(z, inputs, weights, heads[0], mask)
        for layer in p["block"]:
            z = self_attention(z, layer, heads[1])
    return z


def perceiver(inputs: Array, p: Params, crosses: int, blocks: int, heads: Heads, mask: Array | None = None) -> Array:
    """inputs (M, C) -> class logits: the mean of the latents through a linear map (Perceiver, section 3.1)."""
    z = encoder(inputs, p["encoder"], crosses, blocks, heads, mask)
    return linear(z.mean(0), p["decoder"]["output"])


def perceiver_io(inputs: Array, p: Params, blocks: int, heads: Heads, query_heads: int) -> Array:
    """inputs (M, C) -> outputs (O, E): one cross-attention in; one out, from a query for each output (section 3.2)."""
    z = encoder(inputs, p["encoder"], 1, blocks, heads)
    x = cross_attention(p["decoder"]["queries"]["table"], z, p["decoder"]["cross_attention"], query_heads)
    return linear(x, p["decoder"]["output"])


def perceiver_ar(ids: Array, p: Params, prefix: int, heads: Heads) -> Array:
    """Token ids (M,) -> logits of what follows each position from `prefix` on (Hawthorne et al. 2022, section 3).

    The latents are the last positions; each attends to what is not after it.
    """
    x = p["embedding"][ids] + p["positions"][: len(ids)]  # (M, D)
    causal = np.arange(len(ids)) <= np.arange(prefix, len(ids))[:, None]  # (N, M)
    z = cross_attention(linear(x[prefix:], p["query"]), x, p["cross_attentions"][0], heads[0], causal)
    for layer in p["layers"]:
        z = self_attention(z, layer, heads[1], causal[:, prefix:])
    return linear(layer_norm(z, p["norm"]), p["logits"])


def perceiver_resampler(features: Array, p: Params, heads: int) -> Array:
    """features (T, S, D) of one image or video -> (N, D), whatever T and S (Flamingo, section 2.1 and figure 5).

    Keys and values are of the features and of the latents themselves.
    """
    x = (features + p["time_embedding"][: len(features), None]).reshape(-1, features.shape[-1])  # (T S, D)
    z = p["latents"]
    for layer in p["layers"]:
        normed = layer_norm(z, layer["latents_norm"])
        both = np.concatenate([layer_norm(x, layer["features_norm"]), normed])
        z = z + attention(normed, both, layer["attention"], heads)
        z = z + mlp(layer_norm(z, layer["mlp_norm"]), layer["mlp"], squared_relu)
    return layer_norm(z, p["norm"])


def gated_cross_attention(x: Array, media: Array, media_of_text: Array, p: Params, heads: int) -> Array:
    """Text x (N, D) attends to media (I, S, C): (N, D); GATED XATTN-DENSE (Flamingo, section 2.2 and figure 4).

    media_of_text (N,): the number, from 1, of the medium that a token may look at, the last one before it; 0 for none.
    Both gates begin at 0, where the language model is as it was.
    """
    images, tokens, channels = media.shape
    mask = np.repeat(np.arange(1, images + 1), tokens) == media_of_text[:, None]  # (N, I S)
    keys = media.reshape(images * tokens, channels)
    x = x + np.tanh(p["attention_gate"]) * attention(layer_norm(x, p["norm"]), keys, p["attention"], heads, mask)
    return x + np.tanh(p["mlp_gate"]) * mlp(layer_norm(x, p["mlp_norm"]), p["mlp"], squared_relu)
