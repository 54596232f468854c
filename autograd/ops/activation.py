"""The activations in use by Perceivers and their relatives.

`activations` at the end names them as options do; the derivative at a kink is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..backend import Array, special, xp
from ..core import op

_SQRT_HALF = 0.7071067811865476
_SQRT_2_OVER_PI = 0.7978845608028654
_1_OVER_SQRT_2PI = 0.3989422804014327


@op
def relu(x: Array) -> Any:
    """max(x, 0), of any shape (Nair and Hinton 2010)."""
    return xp(x).maximum(x, 0), (x > 0,)


@relu.backward
def _(g: Array, positive: Array) -> Any:
    return xp(g).where(positive, g, 0)  # selected: a product of 0 and infinity would be NaN


@op(floats=True)
def squared_relu(x: Array) -> Any:
    """max(x, 0)^2, of any shape (So et al. 2021, Primer; of Flamingo's resampler, arXiv 2204.14198, A.1)."""
    positive = xp(x).maximum(x, 0)
    return positive * positive, (positive,)


@squared_relu.backward
def _(g: Array, positive: Array) -> Any:
    return 2 * xp(g).where(positive > 0, g, 0) * positive


@op(floats=True)
def sigmoid(x: Array) -> Any:
    """1 / (1 + exp(-x)), of any shape, without overflow."""
    y = special("expit", x)
    return y, (y,)


@sigmoid.backward
def _(g: Array, y: Array) -> Any:
    return g * y * (1 - y)


@op(floats=True)
def silu(x: Array) -> Any:
    """x sigmoid(x), of any shape (Hendrycks and Gimpel 2016, arXiv 1606.08415, section 2)."""
    s = special("expit", x)
    return x * s, (x, s)


@silu.backward
def _(g: Array, x: Array, s: Array) -> Any:
    return g * (s + x * s * (1 - s))


@op(floats=True)
def gelu_erf(x: Array) -> Any:
    """x Phi(x), of any shape, Phi the standard normal distribution function (arXiv 1606.08415, section 2).

    y = x (1 + erf(x / sqrt 2)) / 2
    """
    phi = _phi(x)
    return x * phi, (x, phi)


@gelu_erf.backward
def _(g: Array, x: Array, phi: Array) -> Any:
    return g * (phi + x * (_1_OVER_SQRT_2PI * xp(x).exp(-0.5 * x * x)))


@op(floats=True)
def gelu_tanh(x: Array) -> Any:
    """The tanh approximation of GELU, of any shape (arXiv 1606.08415, section 2); within 4.8e-4 of `gelu_erf`.

    y = x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
    """
    t = _tanh(x)
    return 0.5 * x * (1 + t), (x, t)


@gelu_tanh.backward
def _(g: Array, x: Array, t: Array) -> Any:
    slope = _SQRT_2_OVER_PI * (1 + 3 * 0.044715 * x * x)
    return g * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope)


def _phi(x: Array) -> Array:
    return 0.5 * (1 + special("erf", x * _SQRT_HALF))


def _tanh(x: Array) -> Array:
    return xp(x).tanh(_SQRT_2_OVER_PI * (x + 0.044715 * x * x * x))


activations: dict[str, Callable[[Any], Any]] = {
    "gelu_erf": gelu_erf,
    "gelu_tanh": gelu_tanh,
    "relu": relu,
    "squared_relu": squared_relu,
    "silu": silu,
}
"""Activation by the name that options use."""
