"""Arithmetic in a narrower format, op by op, as PyTorch does it in a module that is cast down.

Every op takes arguments of the narrow format, computes in float32 or better and rounds what it gives once. Where the
inputs of a part are known, what it gives can so be repeated bit for bit, but for the rare sum that lies so close to the
middle between two numbers of the format that the order of summation decides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...autograd import ops
from ...autograd.backend import is_array, xp
from ...autograd.core import Op, array_of
from ...autograd.ops.attention import scale_factor
from ..rounding.arithmetic import DIGITS, MOVING, rounded
from .base import OpReplacement

Cast = Callable[[Any], Any]


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


def cast_to(name: str) -> Cast:
    """Values as they are after a cast from float64 to a narrower format, by way of float32, and back."""
    if name == "bfloat16":
        return lambda a: rounded(a.astype(np.float32).astype(np.float64), DIGITS[name]).astype(a.dtype)
    return lambda a: a.astype(np.float32).astype(name).astype(a.dtype)


def narrowed(cast: Cast, manner: Manner = AFTER) -> OpReplacement:
    """Any op on narrowed arguments, with a narrowed result; attention in its steps."""
    attention = in_steps(cast, manner)

    def run(op: Op, arguments: Any, static: Any) -> Any:
        if op.name in MOVING:
            return op(*arguments, **static)
        if op.name == "attention":
            return attention(op, arguments, static)
        down = tuple(narrow(cast, a) for a in arguments)
        if op.name == "linear" and manner.apart and len(down) > 2:
            return cast(cast(array_of(op(*down[:2], **static))) + down[2])
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

    def run(op: Op, arguments: Any, static: Any) -> Any:
        down = tuple(narrow(cast, a) for a in arguments)
        if manner.fused:
            return cast(array_of(op(*down, **static)))
        return cast(_mix(_weights(cast, _logits(cast, down, static, manner), static, manner), down, static))

    return run


def logits_and_softmax(cast: Cast, manner: Manner = AFTER) -> OpReplacement:
    """Queries and keys cast down, and what comes of them up to the weights."""

    def run(op: Op, arguments: Any, static: Any) -> Any:
        down = tuple(narrow(cast, a) for a in arguments)
        return _mix(_weights(cast, _logits(cast, down, static, manner), static, manner), arguments, static)

    return run


def softmax_alone(cast: Cast, manner: Manner = AFTER) -> OpReplacement:
    """Logits cast down for the softmax; with `manner.lowered` after the largest is subtracted."""

    def run(op: Op, arguments: Any, static: Any) -> Any:
        s = _logits(lambda a: a, arguments, static, manner)
        if manner.lowered:
            s = s - s.max(-1, keepdims=True)
        return _mix(cast(array_of(ops.softmax(cast(_masked(s, static))))), arguments, static)

    return run


def _logits(cast: Cast, arguments: Any, static: Any, manner: Manner) -> Any:
    q, k, _, *rest = (array_of(a) for a in arguments)
    scale = scale_factor(q, static.get("scale"))
    k = k.swapaxes(-1, -2)
    s = cast(cast(q * scale) @ k) if manner.scaled_first else cast(cast(q @ k) * scale)
    return s if not rest or rest[0] is None else cast(s + rest[0])


def _weights(cast: Cast, s: Any, static: Any, manner: Manner) -> Any:
    s = _masked(s, static)
    if manner.lowered:
        s = cast(s - s.max(-1, keepdims=True))
    return cast(array_of(ops.softmax(s)))


def _masked(scores: Any, static: Any) -> Any:
    mask = static.get("mask")
    if mask is None:
        return scores
    library = xp(scores)
    scores = library.where(mask, scores, library.asarray(-np.inf, scores.dtype))
    return library.where(mask.any(-1, keepdims=True), scores, library.zeros((), scores.dtype))


def _mix(weights: Any, arguments: Any, static: Any) -> Any:
    mask = static.get("mask")
    if mask is not None and static.get("masked_rows", "zero") == "zero":
        weights = xp(weights).where(mask.any(-1, keepdims=True), weights, 0.0)
    return weights @ array_of(arguments[2])
