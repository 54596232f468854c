"""Deviations of precision: one part of the model computed in fewer digits than the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ...autograd import ops
from ...autograd.backend import is_array, xp
from ...autograd.engine import Op
from ...autograd.ops.attention import scale_factor
from ...autograd.tensor import array_of
from ...tracing import where
from ...variation import Replacement
from ..rounding import DIGITS, rounded
from .base import Candidate, Change, OpReplacement, Survey
from .layers import NORMS

_FORMATS = ("float32", "bfloat16", "float16")


def dtype(found: Survey) -> Iterator[Candidate]:
    """A part computed in float32, float16 or bfloat16: its inputs cast down, its result cast up again."""
    for name in _FORMATS:
        cast = _cast(name)
        parts: dict[str, Mapping[str, OpReplacement]] = {
            "norms": dict.fromkeys(NORMS, _narrow(cast)),
            "activations": dict.fromkeys(ops.activations, _narrow(cast)),
            "attention": {"attention": _narrow(cast)},
            "the softmax": {"attention": _softmax_alone(cast)},
            "logits and softmax": {"attention": _weights_alone(cast)},
            "linear maps": {"linear": _narrow(cast)},
            "products": {"linear": _narrow(cast), "attention": _narrow(cast), "matmul": _narrow(cast)},
            "the MLP": {"linear": _within("mlp", _narrow(cast)), **dict.fromkeys(ops.activations, _narrow(cast))},
            "attention's linear maps and attention": {
                "linear": _within("attention", _narrow(cast)),
                "attention": _narrow(cast),
            },
            "gates": {"tanh": _narrow(cast)},
        }
        for part, table in parts.items():
            if any(op in found.ops for op in table):
                yield Candidate("dtype", f"{part} in {name}", Change(ops=lambda path, table=table: table))
        yield Candidate("dtype", f"positions in {name}", Change(layers=lambda cast=cast: _positions(cast)))
        yield Candidate("dtype", f"the grid in {name}", Change(layers=lambda cast=cast: _grid(cast)))
        yield Candidate("dtype", f"angles in {name}", Change(layers=lambda cast=cast: _angles(cast)))


def _cast(name: str) -> Callable[[Any], Any]:
    """Values as they are after a cast to a narrower format and back."""
    if name == "bfloat16":
        return lambda a: rounded(a.astype(np.float32).astype(np.float64), DIGITS[name]).astype(a.dtype)
    return lambda a: a.astype(name).astype(a.dtype)


def _narrow(cast: Callable[[Any], Any]) -> OpReplacement:
    """The op on narrowed arguments, in float32 inside, with a narrowed result."""

    def run(op: Op, arguments: Any, static: Any) -> Any:
        arrays = [_down(cast, a) for a in arguments]
        out = op(*arrays, **static)
        return cast(array_of(out).astype(np.float64))

    return run


def _down(cast: Callable[[Any], Any], value: Any) -> Any:
    data = array_of(value)
    return cast(data).astype(np.float32) if is_array(data) and data.dtype.kind == "f" else value


def _within(part: str, replacement: OpReplacement) -> OpReplacement:
    def run(op: Op, arguments: Any, static: Any) -> Any:
        return replacement(op, arguments, static) if part in where().split(".") else op(*arguments, **static)

    return run


def _scores(arguments: Any, static: Any) -> Any:
    q, k, _, *rest = (array_of(a) for a in arguments)
    s = q @ k.swapaxes(-1, -2) * scale_factor(q, static.get("scale"))
    if rest and rest[0] is not None:
        s = s + rest[0]
    mask = static.get("mask")
    if mask is None:
        return s
    s = xp(s).where(mask, s, -xp(s).inf)
    return xp(s).where(mask.any(-1, keepdims=True), s, 0.0)


def _mix(weights: Any, arguments: Any, static: Any) -> Any:
    mask = static.get("mask")
    if mask is not None and static.get("masked_rows", "zero") == "zero":
        weights = xp(weights).where(mask.any(-1, keepdims=True), weights, 0.0)
    return weights @ array_of(arguments[2])


def _softmax_alone(cast: Callable[[Any], Any]) -> OpReplacement:
    def run(op: Op, arguments: Any, static: Any) -> Any:
        scores = cast(_scores(arguments, static)).astype(np.float32)
        return _mix(cast(array_of(ops.softmax(scores)).astype(np.float64)), arguments, static)

    return run


def _weights_alone(cast: Callable[[Any], Any]) -> OpReplacement:
    def run(op: Op, arguments: Any, static: Any) -> Any:
        q, k, *rest = arguments
        narrowed = (cast(array_of(q)), cast(array_of(k)), *rest)
        scores = cast(_scores(narrowed, static)).astype(np.float32)
        return _mix(cast(array_of(ops.softmax(scores)).astype(np.float64)), arguments, static)

    return run


def _positions(cast: Callable[[Any], Any]) -> Mapping[str, Replacement]:
    def features(original: Any, positions: Any, *arguments: Any, **options: Any) -> Any:
        return cast(array_of(original(cast(array_of(positions)), *arguments, **options)))

    return {"fourier_features": features}


def _grid(cast: Callable[[Any], Any]) -> Mapping[str, Replacement]:
    return {"linear_positions": lambda original, *arguments, **options: cast(original(*arguments, **options))}


def _angles(cast: Callable[[Any], Any]) -> Mapping[str, Replacement]:
    """Positions, frequencies and their products in float32."""

    def features(original: Any, positions: Any, *arguments: Any, **options: Any) -> Any:
        narrow = cast(array_of(positions)).astype(np.float32)
        return array_of(original(narrow, *arguments, **options)).astype(np.float64)

    return {"fourier_features": features}
