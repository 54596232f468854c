"""Arithmetic in a narrower format, op by op, as PyTorch does it in a module that is cast down.

Every op takes arguments of the narrow format, computes in float32 or better and rounds what it gives once. Where the
inputs of a part are known, what it gives can so be repeated bit for bit, but for the rare sum that lies so close to the
middle between two numbers of the format that the order of summation decides.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...autograd.backend import is_array, xp
from ...autograd.core import Op, array_of
from ..rounding.arithmetic import MOVING
from ..rounding.attention import attention, logits, mixture, weights
from ..rounding.grid import Cast
from ..rounding.steps import EXACT, IN_STEPS, LOWEST, Rounding
from .base import OpReplacement


class Manner(NamedTuple):
    """Where a port rounds between an equation's beginning and its end.

    scaled_first: queries are scaled before their product with keys, not logits after it; lowered: each query's largest
    logit is subtracted before the softmax; fused: attention rounds its result alone; apart: a linear map rounds its
    products before it adds the bias, as JAX's do.
    """

    scaled_first: bool = False
    lowered: bool = False
    fused: bool = False
    apart: bool = False

    def __str__(self) -> str:
        words = {
            "queries scaled before the product": self.scaled_first,
            "less the largest logit": self.lowered,
            "attention in one step": self.fused,
            "biases added to rounded products": self.apart,
        }
        return "".join(f", {word}" for word, holds in words.items() if holds)


AFTER, BEFORE, STABLE = Manner(), Manner(True), Manner(True, True)


def narrowed(cast: Cast, manner: Manner = AFTER) -> OpReplacement:
    """Any op on narrowed arguments, with a narrowed result; attention in its steps."""
    to, steps = _rounding(cast), in_steps(cast, manner)

    def run(op: Op, arguments: Any, static: Any) -> Any:
        if op.name in MOVING:
            return op(*arguments, **static)
        if op.name == "attention":
            return steps(op, arguments, static)
        down = tuple(narrow(cast, a) for a in arguments)
        if op.name == "linear" and manner.apart:
            return IN_STEPS[op.name](to, *down, **static)
        if op.name == "rms_norm":  # what is normed is rounded before it is scaled
            normed = cast(array_of(op(down[0], xp(down[1]).ones_like(down[1]), **static)))
            return cast(normed * down[1])
        return _result(cast, op(*down, **static))

    return run


def narrow(cast: Cast, value: Any) -> Any:
    """An argument cast down, if it is one of floating-point numbers."""
    data = array_of(value)
    return cast(data) if is_array(data) and data.dtype.kind == "f" else value


def _result(cast: Cast, out: Any) -> Any:
    return tuple(cast(array_of(o)) for o in out) if isinstance(out, tuple) else cast(array_of(out))


def in_steps(cast: Cast, manner: Manner = AFTER) -> OpReplacement:
    """Attention with each step rounded: logits, their sum with a bias, weights, mixture."""
    to = _rounding(cast)

    def run(op: Op, arguments: Any, static: Any) -> Any:
        down = tuple(narrow(cast, a) for a in arguments)
        if manner.fused:
            return cast(array_of(op(*down, **static)))
        return _attention(to, down, static, manner)

    return run


def logits_and_softmax(cast: Cast, manner: Manner = AFTER) -> OpReplacement:
    """Queries and keys cast down, and what comes of them up to the weights."""
    to = _rounding(cast)

    def run(op: Op, arguments: Any, static: Any) -> Any:
        q, k, v, *bias = arguments
        q, k, *bias = (narrow(cast, a) for a in (q, k, *bias))
        return _attention(to, (q, k, v, *bias), static, manner, mixed=EXACT)

    return run


def _attention(to: Rounding, arguments: Any, static: Any, manner: Manner, mixed: Rounding | None = None) -> Any:
    first, lowered = manner.scaled_first, manner.lowered
    return attention(to, arguments, static, mixed=mixed, scaled_first=first, lowered=lowered)


def _rounding(cast: Cast) -> Rounding:
    """By this cast; float16's is known by what it cannot hold."""
    lowest = LOWEST["float16"]
    with np.errstate(over="ignore"):
        return Rounding(cast, lowest=lowest if cast(np.array([4 * lowest]))[0] == -np.inf else None)


def softmax_alone(cast: Cast, manner: Manner = AFTER) -> OpReplacement:
    """Logits cast down for the softmax; with `manner.lowered` after the largest is subtracted."""
    to = _rounding(cast)

    def run(op: Op, arguments: Any, static: Any) -> Any:
        q, k, v, *bias = map(array_of, arguments)
        s = logits(EXACT, q, k, *bias, options=static, scaled_first=manner.scaled_first)
        p = weights(to, s if manner.lowered else cast(s), static, lowered=manner.lowered)
        return mixture(EXACT, p, v, static)

    return run
