"""The numbers that a weights file holds, as NumPy has them: formats that it lacks are widened; precision on request."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from ...errors import InputError

BFLOAT16 = "bfloat16"
_FLOAT8 = {
    "float8_e4m3fn": (4, 3, 7, (0x7F, 0xFF)),
    "float8_e4m3fnuz": (4, 3, 8, (0x80,)),
    "float8_e5m2": (5, 2, 15, (0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF)),
    "float8_e5m2fnuz": (5, 2, 16, (0x80,)),
    "float8_e8m0fnu": (8, 0, 127, (0xFF,)),
}
"""By name: bits of the exponent and of the fraction, bias, and which bytes are NaN (arXiv 2209.05433; OCP MX 1.0)."""
WIDENED = frozenset({BFLOAT16, *_FLOAT8})
"""Formats that NumPy lacks: their numbers are read as float32, which holds each exactly."""
UNREAD = {
    "complex32": "V4",
    "complex64": "complex64",
    "complex128": "complex128",
    "quint4x2": "uint8",
    "quint2x4": "uint8",
}
"""Dtypes of numbers that no parameter has, complex and packed ones, and what NumPy would read them as."""


def stored(kind: str) -> np.dtype[Any]:
    """The dtype that numbers of this kind are read as from a file: the bits of those that NumPy lacks."""
    if kind in WIDENED:
        return np.dtype("uint16" if kind == BFLOAT16 else "uint8")
    return np.dtype(UNREAD.get(kind, kind))


def decoded(bits: np.ndarray, kind: str) -> np.ndarray:
    """Numbers of a dtype's name, given as an array of `stored(kind)`.

    bfloat16 becomes float32, of which it is the upper half, and float8 becomes float32 by a table of its 256 values, so
    every value stays exactly what it is.
    """
    if kind in _FLOAT8:
        return np.asarray(_float8(kind)[bits])
    if kind != BFLOAT16:
        return bits
    wide = np.empty(bits.shape, np.uint32)
    wide[...] = bits
    wide <<= 16
    return np.asarray(wide.view(np.float32))


@cache
def _float8(kind: str) -> np.ndarray:
    """The 256 values: (-1)^sign 2^(exponent - bias) (1 + fraction), without the 1 where the exponent is 0."""
    exponent_bits, fraction_bits, bias, nans = _FLOAT8[kind]
    code = np.arange(256)
    exponent = code >> fraction_bits & (1 << exponent_bits) - 1
    fraction = (code & (1 << fraction_bits) - 1) / (1 << fraction_bits)
    subnormal = (exponent == 0) & (fraction_bits > 0)
    values = np.ldexp(np.where(subnormal, fraction, 1 + fraction), np.where(subnormal, 1, exponent) - bias)
    if kind == "float8_e5m2":
        values[[0x7C, 0xFC]] = np.inf
    if exponent_bits + fraction_bits == 7:
        values = np.where(code >= 128, -values, values)
    values[list(nans)] = np.nan
    table: np.ndarray = values.astype(np.float32)
    table.flags.writeable = False
    return table


def unread(shape: tuple[int, ...]) -> np.ndarray:
    """What stands for an array that nobody needs, so that its name and shape are known: zeros, in no memory."""
    return np.broadcast_to(np.zeros((), np.float32), shape)


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
