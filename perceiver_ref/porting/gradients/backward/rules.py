"""Wrong backward rules of norms, activations, embeddings, linear maps and of everything that broadcasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from ....autograd import ops, vjp
from ....autograd.backend import scatter_add, to_host, xp
from ...deviations.layers import ACTIVATIONS
from ..graph import Ran
from .base import Rule, Slip

_Norm = Callable[[Any, Any, Any, Any], Any]
_NORMS, _CURVES = ("layer_norm", "rms_norm"), (*ops.activations, "tanh", "sigmoid")


def _mean(x: Any) -> Any:
    return x.mean(-1, keepdims=True)


def _norm(rule: _Norm) -> Rule:
    """The gradient of x from g, the normalised x, 1 / std and the scale."""
    return lambda step, gradient: {0: rule(gradient, *step.residuals)}


def _layer(rule: _Norm) -> Rule:
    """The same from g times the scale, for `layer_norm`."""
    return _norm(lambda g, unit, inverse, scale: inverse * rule(g * scale, unit, inverse, scale))


_LAYER_NORM: dict[str, Rule] = {
    "without the mean of the gradient": _layer(lambda g, unit, i, s: g - unit * _mean(g * unit)),
    "without the variance's term": _layer(lambda g, unit, i, s: g - _mean(g)),
    "with the statistics taken for constants": _layer(lambda g, unit, i, s: g),
    "with the sum in place of the mean of the gradient": _layer(
        lambda g, unit, i, s: g - g.sum(-1, keepdims=True) - unit * _mean(g * unit)
    ),
    "with the variance of D - 1": _layer(
        lambda g, unit, i, s: g - _mean(g) - unit * _mean(g * unit) * (g.shape[-1] / max(g.shape[-1] - 1, 1))
    ),
    "with the variance's term twice": _layer(lambda g, unit, i, s: g - _mean(g) - 2 * unit * _mean(g * unit)),
    "without the scale": _norm(lambda g, unit, i, s: i * (g - _mean(g) - unit * _mean(g * unit))),
    "with the scale on the first term alone": _norm(
        lambda g, unit, i, s: i * (g * s - _mean(g) - unit * _mean(g * unit))
    ),
    "not divided by the deviation": _layer(lambda g, unit, i, s: (g - _mean(g) - unit * _mean(g * unit)) / i),
    "not there, x gets the gradient of y": _norm(lambda g, unit, i, s: g),
    "not there but for the scale": _norm(lambda g, unit, i, s: g * s),
}
_RMS_NORM: dict[str, Rule] = {
    "with the mean square taken for a constant": _layer(lambda g, unit, i, s: g),
    "with a mean of the gradient, as of layer norm": _layer(
        lambda g, unit, i, s: g - _mean(g) - unit * _mean(g * unit)
    ),
    "without the scale": _norm(lambda g, unit, i, s: i * (g - unit * _mean(g * unit))),
    "not divided by the root mean square": _layer(lambda g, unit, i, s: (g - unit * _mean(g * unit)) / i),
    "not there, x gets the gradient of y": _norm(lambda g, unit, i, s: g),
    "not there but for the scale": _norm(lambda g, unit, i, s: g * s),
}
_SCALES: dict[str, Rule] = {
    "with the scale's gradient of x that is not normalised": lambda step, g: {1: g * step.arguments[0]},
    "with the scale's gradient of x that is centred alone": lambda step, g: {
        1: g * step.residuals[0] / step.residuals[1]
    },
    "with the scale's gradient of y": lambda step, g: {1: g * step.outputs[0]},
    "with the gradients of scale and offset as one": lambda step, g: {1: g},
}


def _derivative(function: Callable[[Any], Any], at: Callable[[Ran], Any] = lambda step: step.arguments[0]) -> Rule:
    """The derivative of another function, or at another place."""

    def run(step: Ran, gradient: Any) -> dict[int, Any]:
        x = at(step)
        _, pull = vjp(function, x)
        return {0: pull(xp(x).broadcast_to(gradient, x.shape).copy())[0]}

    return run


def _taken_at_x(slope: Callable[[Any], Any], step: Ran, gradient: Any) -> dict[int, Any]:
    return {0: gradient * slope(step.arguments[0])}


def _curves() -> Iterator[Slip]:
    functions: dict[str, Callable[[Any], Any]] = {**ACTIVATIONS, "sigmoid": ops.sigmoid, "tanh": ops.tanh}
    for used in _CURVES:
        own = functions[used]
        for other, function in functions.items():
            if other == used:
                continue
            name = "1, straight through" if other == "identity" else f"that of {other}"
            yield Slip("activation-backward", f"derivative of {used} is {name}", (used,), (0,), _derivative(function))
        at_y = _derivative(own, lambda step: step.outputs[0])
        yield Slip("activation-backward", f"derivative of {used} at y in place of x", (used,), (0,), at_y)
        if used in ("tanh", "sigmoid"):
            taken = (lambda y: 1 - y * y) if used == "tanh" else (lambda y: y * (1 - y))
            x_for_y = partial(_taken_at_x, taken)
            yield Slip("activation-backward", f"derivative of {used} with x for y", (used,), (0,), x_for_y)
        for value in (1.0, 0.5):

            def at_zero(step: Ran, g: Any, value: float = value) -> dict[int, Any]:
                return {0: np.where(step.arguments[0] == 0, g * value, step.pull(g)[0])}

            def kink(step: Ran) -> bool:
                return bool((step.arguments[0] == 0).any())

            if used == "relu":
                yield Slip("activation-backward", f"derivative of relu at 0 is {value:g}", (used,), (0,), at_zero, kink)


def _tokens(rule: Callable[[Any, Any, Any], Any]) -> Rule:
    """The table's gradient from zeros, the tokens in order and the rows of their gradients."""

    def run(step: Ran, gradient: Any) -> dict[int, Any]:
        ids, shape = step.residuals
        rows = gradient.reshape(-1, *shape[1:])
        return {0: rule(xp(gradient).zeros(shape), ids.reshape(-1), rows)}

    return run


def _last(table: Any, ids: Any, rows: Any) -> Any:
    for token, row in zip(ids, rows):
        table[token] = row
    return table


def _averaged_tokens(table: Any, ids: Any, rows: Any) -> Any:
    scatter_add(table, ids, rows)
    counts = xp(table).asarray(np.maximum(np.bincount(to_host(ids), minlength=len(table)), 1))
    return table / counts.reshape(-1, *[1] * (table.ndim - 1))


def _ignoring(token: int) -> Rule:
    def run(step: Ran, gradient: Any) -> dict[int, Any]:
        table = step.pull(gradient)[0].copy()
        table[token] = 0.0
        return {0: table}

    return run


def _embedding(step: Ran) -> bool:
    return bool(step.options["axis"] == 0)


def _transposed_weight(step: Ran, gradient: Any) -> dict[int, Any]:
    return {0: gradient @ step.arguments[1]}


def _square(step: Ran) -> bool:
    shape = step.arguments[1].shape
    return bool(len(shape) == 2 and shape[0] == shape[1] > 1)


def _both(step: Ran) -> bool:
    return _square(step) and len(step.node.needs) > 1 and all(step.node.needs[:2])


def _raw(position: int, make: Callable[[Any, tuple[int, ...]], Any]) -> Rule:
    """A gradient that is to be summed over broadcast axes, made of the unsummed one and those axes."""

    def run(step: Ran, gradient: Any) -> dict[int, Any]:
        raw = step.pull(gradient)[position]
        axes = () if raw is None else _summed(raw.shape, step.shape(position) or ())
        return {position: make(raw, axes)} if axes else {}

    return run


def _summed(shape: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[int, ...]:
    """The axes that broadcasting added or stretched."""
    extra = len(shape) - len(wanted)
    return (*range(extra), *(extra + i for i, n in enumerate(wanted) if n == 1 and shape[extra + i] != 1))


def _broadcast(position: int) -> Callable[[Ran], bool]:
    """Whether the argument is smaller than the output, and the rule leaves the sum to the engine."""

    def when(step: Ran) -> bool:
        if position >= len(step.arguments) or (step.op.name == "linear" and position == 1):
            return False
        shape, out = step.shape(position), step.node.outputs[0].shape
        return shape is not None and len(shape) <= len(out) and bool(_summed(out, shape))

    return when


_SPREAD = ("add", "subtract", "multiply", "divide", "linear", *_NORMS, "broadcast_to", "where", "attention")
_SUMS: dict[str, Callable[[Any, tuple[int, ...]], Any]] = {
    "averaged in place of summed": lambda raw, axes: raw / np.prod([raw.shape[a] for a in axes]),
    "averaged over the batch in place of summed": lambda raw, axes: raw / raw.shape[axes[0]],
    "of the first element in place of the sum": lambda raw, axes: raw * _only(raw, axes, 0),
    "of the last element in place of the sum": lambda raw, axes: raw * _only(raw, axes, -1),
    "of the batch's first in place of the sum": lambda raw, axes: raw * _only(raw, axes[:1], 0),
    "of the batch's last in place of the sum": lambda raw, axes: raw * _only(raw, axes[:1], -1),
}


def _only(raw: Any, axes: tuple[int, ...], index: int) -> Any:
    chosen = xp(raw).zeros(raw.shape)
    chosen[tuple(index if a in axes else slice(None) for a in range(raw.ndim))] = 1.0
    return chosen


def _matrix(over: Callable[[Any], float]) -> Rule:
    """A linear map's gradients divided by the number of rows or of examples."""

    def run(step: Ran, g: Any) -> dict[int, Any]:
        made = step.pull(g)
        positions = [edge.position for edge in step.edges if edge.position]  # there may be no bias
        return {p: step.fit(p, made[p]) / over(g) for p in positions if made[p] is not None}

    return run


RULES: tuple[Slip, ...] = (
    *(Slip("norm-backward", f"layer norm's {name}", ("layer_norm",), (0,), rule) for name, rule in _LAYER_NORM.items()),
    *(Slip("norm-backward", f"RMS norm's {name}", ("rms_norm",), (0,), rule) for name, rule in _RMS_NORM.items()),
    *(Slip("norm-backward", name, _NORMS, (1,), rule) for name, rule in _SCALES.items()),
    *_curves(),
    Slip("embedding-backward", "a repeated token's last gradient alone", ("take",), (0,), _tokens(_last), _embedding),
    Slip(
        "embedding-backward",
        "a repeated token's first gradient alone",
        ("take",),
        (0,),
        _tokens(lambda t, ids, rows: _last(t, ids[::-1], rows[::-1])),
        _embedding,
    ),
    Slip(
        "embedding-backward",
        "a repeated token's gradients averaged",
        ("take",),
        (0,),
        _tokens(_averaged_tokens),
        _embedding,
    ),
    Slip("weight-backward", "the weight is not transposed", ("linear",), (0,), _transposed_weight, _both),
    Slip(
        "weight-backward",
        "the weight's gradient is transposed",
        ("linear",),
        (1,),
        lambda step, g: {1: step.pull(g)[1].T},
        lambda step: _square(step) and len(step.node.needs) > 1 and step.node.needs[1],
    ),
    *(
        Slip("gradient-averaged", f"{what} (argument {p + 1})", _SPREAD, (p,), _raw(p, make), _broadcast(p))
        for p in range(4)
        for what, make in _SUMS.items()
    ),
    Slip(
        "gradient-averaged",
        "weights and biases averaged over rows",
        ("linear",),
        (1, 2),
        _matrix(lambda g: float(np.prod(g.shape[:-1]))),
    ),
    Slip(
        "gradient-averaged",
        "weights and biases averaged over the batch",
        ("linear",),
        (1, 2),
        _matrix(lambda g: len(g)),
    ),
)
"""Rows about one op each."""


def padding(tokens: list[int]) -> list[Slip]:
    """The rows of an embedding that gets no gradient for one token."""
    return [
        Slip("embedding-backward", f"token {t} gets none, as padding", ("take",), (0,), _ignoring(t), _embedding)
        for t in tokens
    ]
