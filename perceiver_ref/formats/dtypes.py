"""The numbers that a weights file holds, as NumPy has them: bfloat16 is widened, and precision changed on request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import InputError

BFLOAT16 = "bfloat16"


def decoded(bits: np.ndarray, kind: str) -> np.ndarray:
    """Numbers of a dtype's name, given as an array of it or, for bfloat16, of its bits (uint16).

    bfloat16 becomes float32, of which it is the upper half, so every value stays exactly what it is.
    """
    if kind != BFLOAT16:
        return bits
    wide = np.empty(bits.shape, np.uint32)
    wide[...] = bits
    wide <<= 16
    return wide.view(np.float32)


def cast(array: np.ndarray, dtype: Any, name: str, where: object) -> np.ndarray:
    """A floating-point array in `dtype` (None: as it is); others unchanged. `InputError` when a number is too large."""
    if dtype is None or array.dtype.kind != "f":
        return array
    try:
        with np.errstate(over="raise", invalid="ignore"):  # a signalling NaN is no overflow
            return array.astype(dtype, copy=False)
    except FloatingPointError:
        raise InputError(f"{where}: parameter {name!r} does not fit into {np.dtype(dtype)}") from None


def finite(arrays: Mapping[str, np.ndarray], where: object) -> None:
    """Raise `InputError` naming the first parameter that holds a NaN or an infinity; needs no memory."""
    for name, array in arrays.items():
        if array.dtype.kind == "f" and array.size:
            ends = array.min(), array.max()  # a NaN makes both NaN
            if not np.isfinite(ends).all():
                what = "a NaN" if np.isnan(ends).any() else "an infinity"
                raise InputError(f"{where}: parameter {name!r} holds {what}; expected finite weights")
