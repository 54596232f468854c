"""Values that are right and whose gradients are not; planted in sources as `BW.<name>`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def grad(x: Any, change: Callable[[Any], Any]) -> Any:
    """x, whose gradient is changed on its way back."""
    if not x.requires_grad:
        return x
    y = x.view_as(x)
    y.register_hook(change)
    return y


def times(x: Any, factor: float) -> Any:
    """x, whose gradient is multiplied."""
    return grad(x, lambda g: g * factor)


def narrow(x: Any, dtype: str) -> Any:
    """x, whose gradient passes through another dtype."""
    return grad(x, lambda g: g.to(getattr(torch, dtype)).to(g.dtype))


def instead(value: Any, other: Any) -> Any:
    """The value of one, the gradient of the other."""
    return other + (value - other).detach()


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, rule: Callable[[Any, Any], Any]) -> Any:
        y = x.softmax(dim=-1)
        ctx.save_for_backward(y)
        ctx.rule = rule
        return y

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        return ctx.rule(ctx.saved_tensors[0], g), None


def softmax_without_sum(x: Any) -> Any:
    return _Softmax.apply(x, lambda y, g: y * g)


def softmax_diagonal(x: Any) -> Any:
    return _Softmax.apply(x, lambda y, g: y * (1 - y) * g)


def softmax_unweighted(x: Any) -> Any:
    return _Softmax.apply(x, lambda y, g: y * (g - g.mean(-1, keepdim=True)))


def softmax_through(x: Any) -> Any:
    return _Softmax.apply(x, lambda y, g: g)


def layer_norm(
    x: Any, width: int, weight: Any, bias: Any, eps: float, *, mean: bool = True, variance: bool = True
) -> Any:
    """Layer norm whose mean or variance is taken for a constant."""
    centre = x.mean(-1, keepdim=True)
    centred = x - (centre if mean else centre.detach())
    spread = ((x - centre) ** 2).mean(-1, keepdim=True)
    unit = centred / torch.sqrt((spread if variance else spread.detach()) + eps)
    return unit * weight + (0 if bias is None else bias)


def rms_norm(x: Any, weight: Any, eps: float) -> Any:
    """RMS norm whose mean square is taken for a constant."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True).detach() + eps) * weight


def gelu_tanh(x: Any) -> Any:
    return torch.nn.functional.gelu(x, approximate="tanh")


def gelu_erf(x: Any) -> Any:
    return torch.nn.functional.gelu(x)


def quick_gelu(x: Any) -> Any:
    return x * torch.sigmoid(1.702 * x)
