"""Activations by the name that options use: the operations', and those that other implementations put together.

Each takes an array of any shape. Where a curve has a kink its slope is that of PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..autograd import ops
from ..autograd.backend import xp
from ..autograd.core import array_of
from ..autograd.handlers import Step

_SOFTPLUS_LINEAR = 20.0
_LAPLACE = 0.707107, 0.282095


def quick_gelu(x: Any) -> Any:
    """x sigmoid(1.702 x) (Hendrycks and Gimpel 2016, arXiv 1606.08415, section 2)."""
    return ops.multiply(x, ops.sigmoid(ops.multiply(x, 1.702)))


def gelu_10(x: Any) -> Any:
    """`gelu_erf`, cut to at most 10 (arXiv 2004.09602, section 4)."""
    return _clipped(ops.gelu_erf(x), -10.0, 10.0, ends=True)


def mish(x: Any) -> Any:
    """x tanh(log(1 + exp(x))) (Misra 2019, arXiv 1908.08681, eq. 1)."""
    return ops.multiply(x, ops.tanh(_softplus(x)))


def relu6(x: Any) -> Any:
    """min(max(x, 0), 6) (Howard et al. 2017, arXiv 1704.04861)."""
    return _clipped(x, 0.0, 6.0, ends=False)


def hardswish(x: Any) -> Any:
    """x relu6(x + 3) / 6 (Howard et al. 2019, arXiv 1905.02244, section 5.2)."""
    return ops.divide(ops.multiply(x, relu6(ops.add(x, 3.0))), 6.0)


@Step
def leaky_relu(x: Any) -> Any:
    """x, below 0 a hundredth of it (Maas et al. 2013)."""
    return ops.where(array_of(x) > 0, x, ops.multiply(x, 0.01))


def laplace(x: Any) -> Any:
    """(1 + erf((x - 0.707107) / (0.282095 sqrt 2))) / 2 (Ma et al. 2022, arXiv 2209.10655, eq. 18)."""
    mean, deviation = _LAPLACE
    scaled = ops.divide(ops.subtract(x, mean), deviation * 2**0.5)
    return ops.multiply(ops.add(ops.erf(scaled), 1.0), 0.5)


def sqrt_softplus(x: Any) -> Any:
    """sqrt(log(1 + exp(x))), above 20 sqrt(x) as PyTorch's softplus has it."""
    large = array_of(x) > _SOFTPLUS_LINEAR
    return ops.sqrt(ops.where(large, x, _softplus(x)))


def identity(x: Any) -> Any:
    """x itself."""
    return x


def _softplus(x: Any) -> Any:
    data = array_of(x)
    return ops.binary_cross_entropy(x, xp(data).zeros(data.shape, data.dtype), reduction="none")


def _clipped(x: Any, low: float, high: float, *, ends: bool) -> Any:
    """x between two numbers; whether it has a slope where it is equal to one."""
    data = array_of(x)
    library = xp(data)
    inside = (data >= low) & (data <= high) if ends else (data > low) & (data < high)
    return ops.where(inside | library.isnan(data), x, data.clip(low, high))


activations: dict[str, Callable[[Any], Any]] = {
    **ops.activations,
    "gelu_10": gelu_10,
    "hardswish": hardswish,
    "identity": identity,
    "laplace": laplace,
    "leaky_relu": leaky_relu,
    "mish": mish,
    "quick_gelu": quick_gelu,
    "relu6": relu6,
    "sigmoid": ops.sigmoid,
    "sqrt_softplus": sqrt_softplus,
    "tanh": ops.tanh,
}
"""Activation by its name in `Conventions.activation`."""

__all__ = [
    "activations",
    "gelu_10",
    "hardswish",
    "identity",
    "laplace",
    "leaky_relu",
    "mish",
    "quick_gelu",
    "relu6",
    "sqrt_softplus",
]
