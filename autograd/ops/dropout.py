"""Dropout with an explicit random key, so that a recomputed forward pass drops the same elements."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array, xp
from ..core import op

Key = int | tuple[int, ...]
"""Non-negative integers that name one stream of random numbers; append to a tuple to derive another stream."""


@op(floats=True)
def dropout(x: Array, *, rate: float, key: Key) -> Any:
    """Zero each element with probability `rate` and divide the others by 1 - rate (Srivastava et al. 2014).

    x of any shape -> the same. The same `key` drops the same elements on every backend. `rate` in [0, 1); 0 returns x.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be in [0, 1), got {rate}")
    if rate == 0:
        return x.copy(), (None,)
    kept = np.random.default_rng(key).random(x.shape, np.float32) >= rate
    kept = xp(x).asarray(kept)
    return xp(x).where(kept, x / (1 - rate), 0), (kept,)  # selected: 0 times infinity is NaN


@dropout.backward
def _(g: Array, kept: Array | None, rate: float) -> Any:
    return g if kept is None else xp(g).where(kept, g / (1 - rate), 0)
