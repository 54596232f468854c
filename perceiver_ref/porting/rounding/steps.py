"""Ops in the steps that narrower arithmetic rounds, and in other orders of summation.

A step's result goes through `Rounding.round`; what goes into a product through `Rounding.factor`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ...autograd import ops
from ...autograd.backend import xp


def _same(value: Any) -> Any:
    return value


class Rounding(NamedTuple):
    """How results are rounded: `round` any, `factor` what goes into a product; `rng` draws the order of sums.

    With `steps` ops are written out, and each of their steps is rounded. `lowest`: the format's lowest number, where
    scores that it is added to do not all come out as that number.
    """

    round: Callable[[Any], Any] = _same
    factor: Callable[[Any], Any] = _same
    rng: np.random.Generator | None = None
    steps: bool = False
    lowest: float | None = None

    def product(self, x: Any, y: Any) -> Any:
        """x (..., N, K) times y (..., K, M), the K products summed in any order."""
        order = slice(None) if self.rng is None else self.rng.permutation(x.shape[-1])
        return self.round(self.factor(x)[..., order] @ self.factor(y)[..., order, :])


LOWEST = {"float16": -65504.0}
"""By format: see `Rounding.lowest`."""
EXACT = Rounding()
"""Nothing is rounded."""


# ------------------------------------------------------------------------------------------- other orders of summation


def _linear(rng: np.random.Generator, op: Any, arguments: Any, static: Any) -> Any:
    x, weight, *bias = arguments
    order = rng.permutation(weight.shape[0])
    return op(x[..., order], weight[order], *bias, **static)


def _matmul(rng: np.random.Generator, op: Any, arguments: Any, static: Any) -> Any:
    x, y = arguments
    order = rng.permutation(x.shape[-1])
    return op(x[..., order], y[order] if y.ndim == 1 else y[..., order, :], **static)


def _last_axis(rng: np.random.Generator, op: Any, arguments: Any, static: Any) -> Any:
    """Norms: the last axis of the input and of scale and offset; the result in the old order."""
    order = rng.permutation(arguments[0].shape[-1])
    return op(*(a[..., order] for a in arguments), **static)[..., np.argsort(order)]


def _convolution(rng: np.random.Generator, op: Any, arguments: Any, static: Any) -> Any:
    x, weight = arguments
    if static.get("groups", 1) != 1:
        return op(x, weight, **static)
    order = rng.permutation(x.shape[-1])
    return op(x[..., order], weight[..., order, :], **static)


IN_ONE: Mapping[str, Callable[..., Any]] = {
    "linear": _linear,
    "matmul": _matmul,
    "layer_norm": _last_axis,
    "rms_norm": _last_axis,
    "convolution": _convolution,
}
"""By op: the same in another order of its sums."""


# -------------------------------------------------------------------------------------------------------------- steps


def softmax_in_steps(to: Rounding, x: Any, *, axis: int = -1) -> Any:
    """The softmax with its differences, powers, their sum and their shares rounded."""
    powers = to.round(xp(x).exp(to.round(x - x.max(axis, keepdims=True))))
    return to.round(powers / to.round(powers.sum(axis, keepdims=True)))


def _biased(to: Rounding, x: Any, weight: Any, bias: Any = None) -> Any:
    y = to.product(x, weight)
    return y if bias is None else to.round(y + bias)


def _layer_norm(to: Rounding, x: Any, scale: Any, offset: Any, *, eps: float = 1e-5) -> Any:
    centred = to.round(x - to.round(x.mean(-1, keepdims=True)))
    variance = to.round(to.round(centred * centred).mean(-1, keepdims=True))
    unit = to.round(centred * to.round(1 / to.round(xp(x).sqrt(to.round(variance + np.float32(eps))))))
    return to.round(to.round(unit * scale) + offset)


def _rms_norm(to: Rounding, x: Any, scale: Any, *, eps: float = 1e-6) -> Any:
    variance = to.round(to.round(x * x).mean(-1, keepdims=True))
    unit = to.round(x * to.round(1 / to.round(xp(x).sqrt(to.round(variance + np.float32(eps))))))
    return to.round(unit * scale)


def _gelu_tanh(to: Rounding, x: Any) -> Any:
    cube = to.round(np.float32(0.044715) * to.round(x * to.round(x * x)))
    inner = to.round(np.float32(0.7978845608028654) * to.round(x + cube))
    return to.round(to.round(np.float32(0.5) * x) * to.round(1 + to.round(xp(x).tanh(inner))))


def _gelu_erf(to: Rounding, x: Any) -> Any:
    inner = to.round(ops.erf(to.round(x * np.float32(0.7071067811865476))))
    return to.round(x * to.round(np.float32(0.5) * to.round(1 + inner)))


def _silu(to: Rounding, x: Any) -> Any:
    return to.round(x * to.round(ops.sigmoid(x)))


IN_STEPS: Mapping[str, Callable[..., Any]] = {
    "linear": _biased,
    "softmax": softmax_in_steps,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "gelu_tanh": _gelu_tanh,
    "gelu_erf": _gelu_erf,
    "silu": _silu,
}
"""By op: the same written out."""
