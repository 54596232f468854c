"""Resizing of a grid or a sequence, as a product with one constant matrix an axis."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from ..autograd import backend as backends
from ..autograd import ops
from ..autograd.core import array_of
from ..autograd.handlers import Step

_A = -0.75


@Step
@ops.in_float32
def resize_bicubic(table: Any, source: tuple[int, int], target: tuple[int, int]) -> Any:
    """Rows of a grid (h w, C), row-major -> the same for another grid, (H W, C) (Keys 1981, a = -0.75).

    Cell centres align (not corners), the border repeats, and shrinking does not smooth (no antialiasing): what
    PyTorch's `interpolate(mode="bicubic")` does, whose places and weights are rounded to float32 for a float32 table.
    """
    (h, w), (height, width), channels = source, target, table.shape[-1]
    data = array_of(table)
    made = (bicubic_matrix(*n, arithmetic(data.dtype)) for n in zip(source, target))
    rows, columns = (backends.xp(data).asarray(matrix, data.dtype) for matrix in made)
    x = ops.matmul(rows, ops.reshape(table, shape=(h, w * channels)))  # (H, w C)
    x = ops.matmul(columns, ops.reshape(x, shape=(height, w, channels)))  # (H, W, C)
    return ops.reshape(x, shape=(height * width, channels))


@Step
@ops.in_float32
def resize_linear(table: Any, target: int) -> Any:
    """Rows (n, C) -> (target, C), each the linear interpolation between its two neighbours; the ends stay the ends."""
    data = array_of(table)
    return ops.matmul(backends.xp(data).asarray(linear_matrix(table.shape[0], target), data.dtype), table)


@lru_cache(maxsize=16)
def linear_matrix(source: int, target: int) -> np.ndarray:
    """(target, source): row i holds the weights of its neighbours around i (source - 1) / (target - 1)."""
    place = np.linspace(0, source - 1, target)
    matrix: np.ndarray = np.maximum(1 - np.abs(place[:, None] - np.arange(source)), 0)
    matrix.flags.writeable = False
    return matrix


@lru_cache(maxsize=16)
def bicubic_matrix(source: int, target: int, dtype: Any = np.float64) -> np.ndarray:
    """(target, source): row i holds the weights of its 4 neighbours, around (i + 1/2) source / target - 1/2."""
    matrix = cubic_weights(places(target, dtype(source) / dtype(target), corners=False), source)
    matrix.flags.writeable = False
    return matrix


def arithmetic(dtype: Any) -> Any:
    """The type in which PyTorch computes places and weights for arrays of this dtype: float32 for all but float64."""
    return np.float64 if np.dtype(dtype) == np.float64 else np.float32


def places(target: int, ratio: Any, *, corners: bool, fused: bool = True) -> np.ndarray:
    """Where in the source each output lies, in the type of `ratio`, the inputs to an output: i ratio, with `corners`,
    or (i + 1/2) ratio - 1/2."""
    i = np.arange(target).astype(ratio.dtype)
    place: np.ndarray = i * ratio if corners else multiply_add(i + i.dtype.type(0.5), ratio, -0.5, fused)
    return place


def cubic_weights(place: np.ndarray, source: int, *, fused: bool = True) -> np.ndarray:
    """(outputs, source): the weights of the 4 neighbours of each place, those beyond the border the border's."""
    one = place.dtype.type(1)
    base = np.minimum(np.floor(place), source - 1)
    after = np.clip(place - base, 0, one)
    before = one - after
    matrix = np.zeros((len(place), source))
    for offset, distance in ((-1, after + one), (0, after), (1, before), (2, before + one)):
        neighbour = np.clip(base + offset, 0, source - 1).astype(int)
        np.add.at(matrix, (np.arange(len(place)), neighbour), keys_kernel(distance, fused=fused))
    return matrix


def keys_kernel(distance: np.ndarray, a: float = _A, *, fused: bool = True) -> np.ndarray:
    """Keys' cubic (1981, IEEE ASSP 29, eq. 4), of parameter a, at distances in [0, 2], computed in their type."""
    slope = multiply_add(distance, a + 2, -(a + 3), fused)
    near = multiply_add(slope * distance, distance, 1.0, fused)
    far = multiply_add(distance, a, -5 * a, fused)
    far = multiply_add(multiply_add(far, distance, 8 * a, fused), distance, -4 * a, fused)
    weights: np.ndarray = np.where(distance <= 1, near, far)
    return weights


def multiply_add(x: np.ndarray, y: Any, z: float, fused: bool = True) -> np.ndarray:
    """x y + z, in float32 rounded once if it is `fused`: the instruction that most of PyTorch's code is compiled to."""
    if not fused:
        apart: np.ndarray = x * x.dtype.type(y) + x.dtype.type(z) if np.ndim(y) == 0 else x * y + x.dtype.type(z)
        return apart
    wide: np.ndarray = np.multiply(x, y, dtype=np.float64) + z
    return wide.astype(x.dtype)


__all__ = [
    "arithmetic",
    "bicubic_matrix",
    "cubic_weights",
    "keys_kernel",
    "linear_matrix",
    "multiply_add",
    "places",
    "resize_bicubic",
    "resize_linear",
]
