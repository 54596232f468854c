"""The steps that all of them are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import erf

Array = Any
Outputs = dict[str, np.ndarray]
Model = Callable[["Given"], Outputs]
LOWEST = float(np.finfo(np.float64).min)


@dataclass(frozen=True)
class Given:
    """A case as these functions read it: configuration, call, parameters `p`, inputs `x`; and the mistake to make."""

    config: Mapping[str, Any]
    call: Mapping[str, Any]
    p: Mapping[str, Array]
    x: Mapping[str, Array]
    mistake: str = ""

    def has(self, *mistakes: str) -> bool:
        """Whether the mistake is one of these."""
        return self.mistake in mistakes

    def linear(self, name: str, x: Array) -> Array:
        """x W^T + b with a weight (out, in) of this name, and a bias where there is one."""
        return x @ self.p[f"{name}.weight"].T + self.p.get(f"{name}.bias", 0.0)

    def norm(self, name: str, x: Array, eps: float = 1e-5) -> Array:
        """Layer norm with the scale and offset of this name."""
        return layer_norm(x, eps) * self.p[f"{name}.weight"] + self.p[f"{name}.bias"]

    def gelu(self, x: Array) -> Array:
        """GELU of the error function; of tanh by mistake."""
        return gelu_tanh(x) if self.has("tanh GELU") else gelu(x)


def layer_norm(x: Array, eps: float = 1e-5) -> Array:
    """Over the last axis, without scale and offset."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)


def gelu(x: Array) -> Array:
    """Of the error function."""
    return x * (1 + erf(x / np.sqrt(2))) / 2


def gelu_tanh(x: Array) -> Array:
    """Its approximation by tanh."""
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def silu(x: Array) -> Array:
    """x sigmoid(x)."""
    return x / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    """Over the last axis; a row of -inf gives zeros."""
    top = x.max(-1, keepdims=True)
    e = np.exp(x - np.where(np.isfinite(top), top, 0.0))
    total = e.sum(-1, keepdims=True)
    return e / np.where(total == 0, 1.0, total)


def split(x: Array, heads: int, *, width_first: bool = False) -> Array:
    """(..., N, H d) -> (..., H, N, d)."""
    *lead, n, c = x.shape
    if width_first:
        return np.moveaxis(x.reshape(*lead, n, c // heads, heads), -1, -3)
    return np.swapaxes(x.reshape(*lead, n, heads, c // heads), -2, -3)


def merge(x: Array, *, width_first: bool = False) -> Array:
    """(..., H, N, d) -> (..., N, H d)."""
    *lead, h, n, d = x.shape
    if width_first:
        return np.moveaxis(x, -3, -1).reshape(*lead, n, d * h)
    return np.swapaxes(x, -2, -3).reshape(*lead, n, h * d)


def weights(q: Array, k: Array, *, added: Array = 0.0, scale: float | None = None) -> Array:
    """softmax(q k^T scale + added) of heads (..., H, N, d)."""
    return softmax(q @ np.swapaxes(k, -1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale) + added)


def attention(
    q: Array,
    k: Array,
    v: Array,
    heads: int,
    *,
    added: Array = 0.0,
    scale: float | None = None,
    width_first: bool = False,
) -> Array:
    """Of channels of all heads together (..., N, H d)."""
    q, k, v = (split(x, heads, width_first=width_first) for x in (q, k, v))
    return merge(weights(q, k, added=added, scale=scale) @ v, width_first=width_first)


def masked(attend: Array, lowest: float = -np.inf) -> Array:
    """What is added to scores: nothing where attended to."""
    return np.where(attend, 0.0, lowest)
