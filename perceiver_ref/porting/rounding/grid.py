"""The numbers of a format: casts to it, and whether numbers are on its grid, or the nearest that it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..cases import TOLERANCES
from .arithmetic import DIGITS, rounded

Cast = Callable[[Any], Any]
"""Values as they are after a cast to another format and back."""


def cast_to(name: str) -> Cast:
    """Values as they are after a cast from float64 to a narrower format, by way of float32, and back."""
    if name == "bfloat16":
        return lambda a: rounded(a.astype(np.float32).astype(np.float64), DIGITS[name]).astype(a.dtype)
    return lambda a: a.astype(np.float32).astype(name).astype(a.dtype)


def on_grid(array: np.ndarray, digits: int) -> bool:
    """Whether all numbers have so few binary digits."""
    return bool((rounded(np.asarray(array, np.float64), digits) == array).all())


def is_nearest(expected: np.ndarray, ours: np.ndarray, dtype: str, floor: float | None = None) -> bool:
    """Whether all numbers are the reference's to half a unit in the last place of a format, or to `floor`: by default
    float64's own rounding in a deep model."""
    if expected.shape != ours.shape:
        return False
    a, b = np.asarray(expected, np.float64), np.asarray(ours, np.float64)
    with np.errstate(invalid="ignore"):
        size = np.abs(np.where(np.isfinite(b), b, 0.0))
        unit = 0.0 if dtype == "float64" else 2.0 ** -DIGITS[dtype]
        tiny = 2.0**-25 if dtype == "float16" else 0.0
        limit = 1.001 * (unit * np.maximum(size, np.abs(np.where(np.isfinite(a), a, 0.0))) + tiny)
        if floor is None:
            floor = TOLERANCES["float64"]["output"] * max(float(size.max(initial=0.0)), 1.0)
        near = np.abs(a - b) <= limit + floor
    same: bool = bool((near | (a == b) | (np.isnan(a) & np.isnan(b))).all())
    return same


def is_stored_in(expected: np.ndarray, ours: np.ndarray, dtype: str) -> bool:
    """Whether numbers are the reference's in a format, and nothing more."""
    return on_grid(expected, DIGITS[dtype]) and is_nearest(expected, ours, dtype)
