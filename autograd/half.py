"""float16: every op computes in float32 and rounds its results once, forward and backward, as PyTorch does.

Rules never see float16, in which squares and sums overflow; what goes from op to op is float16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from .backend import Array


class Computes(Protocol):
    """What this file needs of a `core.Rule`."""

    forward: Callable[..., Any]
    backward: Any

    def __init__(self, forward: Callable[..., Any], backward: Any = None) -> None: ...

    @property
    def names(self) -> Any:
        """The parameters of both."""


R = TypeVar("R", bound=Computes)

Numbers = Literal["computed", "moved", "cast"]
"""What an op does with numbers. "computed": in float32 where they are float16; "moved": they stay what they are, in any
dtype; "cast": as "moved", but the result has a dtype of its own."""


_HALF = np.dtype(np.float16)


def among(values: Sequence[Any]) -> bool:
    """Whether a float16 array is among these."""
    return any(getattr(value, "dtype", None) == _HALF for value in values)


def wide(value: Any) -> Any:
    """A float16 array in float32; anything else as it is."""
    return value.astype(np.float32) if getattr(value, "dtype", None) == np.float16 else value


def rounded(value: Any, dtype: Any) -> Any:
    """A float32 array as float16, where that is the dtype: the nearest, infinity beyond the largest."""
    if dtype != np.float16 or getattr(value, "dtype", None) != np.float32:
        return value
    with np.errstate(over="ignore"):
        return value.astype(np.float16)


def widened(rule: R) -> R:
    """The rule, computing in float32; of its residuals, arguments are kept as they were given."""

    def forward(*arrays: Array, **options: Any) -> Any:
        given = [wide(array) for array in arrays]
        made = rule.forward(*given, **{key: wide(value) for key, value in options.items()})
        if made is NotImplemented:
            return made
        out, residuals, *again = made
        kept = {id(value): arrays[i] for i, value in enumerate(given) if value is not arrays[i]}
        if again and (make := again[0]) is not None:
            again = [lambda: _narrow(make())]
        return _narrow(out), tuple([kept.get(id(r), r) for r in residuals]), *again

    def backward(gradient: Any, *residuals: Any, **options: Any) -> Any:
        upstream = tuple(map(wide, gradient)) if isinstance(gradient, tuple) else wide(gradient)
        return rule.backward(upstream, *map(wide, residuals), **{key: wide(value) for key, value in options.items()})

    made = type(rule)(forward, backward if rule.backward else None)
    forwards, backwards = rule.names
    made.__dict__["names"] = forwards, tuple([n for n in backwards if n != "onto"])  # sums are of float16
    return made


def _narrow(out: Any) -> Any:
    return tuple(map(_narrow, out)) if isinstance(out, tuple) else rounded(out, np.float16)
