"""Changing the dtype of numbers, so that one part of a computation may have another precision than the rest."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from .. import tree
from ..backend import Array, rounded_to, xp
from ..core import Op, registry

DTYPES = ("float16", "float32", "float64", "bfloat16")
"""What numbers can be cast to. NumPy has no bfloat16: its numbers are held in float32."""


class Cast(Op):
    """The op `cast`, whose dtype may also come second."""

    def __call__(self, x: Any, dtype: Any = None, **static: Any) -> Any:
        """`cast(x, dtype)`, or `cast(x, dtype=dtype)`."""
        return super().__call__(x, dtype=_named(dtype), **static)


def _registered(forward: Callable[..., Any]) -> Cast:
    made = registry[forward.__name__] = Cast(forward, numbers="cast")
    return made


@_registered
def cast(x: Array, *, dtype: str) -> Any:
    """x of any shape with every number the nearest of `dtype`, of two as near the even one; infinity beyond its range.

    `dtype` is "float16", "float32", "float64" or "bfloat16" (or NumPy's own); bfloat16 is held in float32. The gradient
    is cast to the dtype of x, and where the numbers were rounded to bfloat16 so is the gradient, as in PyTorch.
    """
    return bfloat16(x) if dtype == "bfloat16" else rounded_to(np.dtype(dtype), x), (x.dtype,)


@cast.backward
def _(g: Array, given: Any, dtype: str) -> Any:
    return rounded_to(given, bfloat16(g) if dtype == "bfloat16" else g)


def bfloat16(x: Array) -> Array:
    """The numbers of x of any dtype, each the nearest of bfloat16, in float32, of which it is the upper half."""
    library, single = xp(x), rounded_to(np.float32, x)
    bits = library.ascontiguousarray(single).view(np.uint32)
    near = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) & np.uint32(0xFFFF0000)
    near = near.view(np.float32).reshape(x.shape)
    return library.where(library.isnan(single), single, near)


def in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: where float16 is among the arguments, the function gets float32, and its results are rounded once.

    For functions that are one operation elsewhere and several here. Arguments and results are trees.
    """

    @wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        given = [arguments, options]
        if not any(_has_float16(value) for _, value in tree.leaves(given)):
            return function(*arguments, **options)
        wide, named = tree.map(lambda value: cast(value, "float32") if _has_float16(value) else value, given)
        return tree.map(_narrow, function(*wide, **named))

    return wrapped


def _narrow(value: Any) -> Any:
    return cast(value, "float16") if getattr(value, "dtype", None) == np.float32 else value


def _has_float16(value: Any) -> bool:
    return getattr(value, "dtype", None) == np.float16


def _named(dtype: Any) -> str:
    try:
        name = dtype if isinstance(dtype, str) or dtype is None else np.dtype(dtype).name
    except TypeError:
        name = None
    if name not in DTYPES:
        raise ValueError(f"cast: unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    return str(name)


__all__ = ["DTYPES", "bfloat16", "cast", "in_float32"]
