"""optax's schedules at the 32-bit counts that it uses: where a count is divided, JAX goes on in float32.

Linear, polynomial and exponential schedules are float32 throughout; a cosine is not, unless it is joined to one that
is. NumPy's float32 numbers, with Python's beside them, round as JAX's do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...autograd.optim.schedules import Schedule, constant, cosine, piecewise
from ...autograd.optim.schedules import join as join_doubles


def polynomial(start: float, end: float, steps: int, *, power: float = 1.0, begin: int = 0) -> Schedule:
    """`optim.polynomial` in float32."""
    if steps <= 0:
        return constant(start)

    def schedule(count: int) -> float:
        done = np.float32(min(max(count - max(begin, 0), 0), steps)) / np.float32(steps)
        return (start - end) * _power(1 - done, power) + end  # type: ignore[return-value]

    return schedule


def linear(start: float, end: float, steps: int, *, begin: int = 0) -> Schedule:
    """`optim.linear` in float32."""
    return polynomial(start, end, steps, begin=begin)


def exponential(
    start: float, rate: float, steps: int, *, begin: int = 0, staircase: bool = False, bound: float | None = None
) -> Schedule:
    """`optim.exponential` in float32."""
    if steps <= 0 or rate == 0:
        return constant(start)
    limit = np.maximum if rate < 1 else np.minimum

    def schedule(count: int) -> float:
        done = np.float32(max(count - max(begin, 0), 0)) / np.float32(steps)
        value = start * _power(np.float32(rate), np.floor(done) if staircase else done)
        return value if bound is None else limit(value, np.float32(bound))  # type: ignore[return-value]

    return schedule


def join(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """`optim.join`, in float32 when any of the schedules is: JAX selects among values of all of them."""
    joined = join_doubles(schedules, boundaries)
    if not any(isinstance(schedule(0), np.float32) for schedule in schedules):
        return joined
    return lambda count: np.float32(joined(count))  # type: ignore[return-value]


def _power(base: Any, exponent: Any) -> np.float32:
    """Rounded once: so are XLA's powers, nearly always, and NumPy's float32 ones often not."""
    return np.float32(math.pow(base, exponent))


__all__ = ["constant", "cosine", "exponential", "join", "linear", "piecewise", "polynomial"]
