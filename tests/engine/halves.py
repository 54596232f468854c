"""How near to the exact numbers what was computed in float32 and rounded to float16 once has to be."""

from __future__ import annotations

from typing import Any

import numpy as np

from perceiver_ref.autograd.backend import to_host

HALF = np.float16


def full(shape: Any, value: float) -> np.ndarray:
    return np.full(shape, value, HALF)


def assert_rounded_once(made: Any, exact: np.ndarray) -> None:
    """Half a unit of float16 from the exact values, and some 20 roundings of float32 of the largest."""
    made, exact = to_host(made), np.asarray(exact, float)
    assert (made.shape, made.dtype) == (exact.shape, HALF)
    unit = np.spacing(np.maximum(abs(exact), 2.0**-14).astype(HALF)).astype(float)
    noise = 20 * 2.0**-24 * max(float(abs(exact).max(initial=0)), 1.0)
    assert (abs(made.astype(float) - exact) <= 0.5 * unit + noise).all(), abs(made - exact).max()
