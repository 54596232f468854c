"""Resizing of a grid or a sequence, as a product with one constant matrix an axis."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from .autograd import backend as backends
from .autograd import ops
from .autograd.tensor import array_of

_A = -0.75


@ops.in_float32
def resize_bicubic(table: Any, source: tuple[int, int], target: tuple[int, int]) -> Any:
    """Rows of a grid (h w, C), row-major -> the same for another grid, (H W, C) (Keys 1981, a = -0.75).

    Cell centres align (not corners), the border repeats, and shrinking does not smooth (no antialiasing): what
    PyTorch's `interpolate(mode="bicubic")` does.
    """
    (h, w), (height, width), channels = source, target, table.shape[-1]
    data = array_of(table)
    rows, columns = (backends.xp(data).asarray(bicubic_matrix(*n), data.dtype) for n in zip(source, target))
    x = ops.matmul(rows, ops.reshape(table, shape=(h, w * channels)))  # (H, w C)
    x = ops.matmul(columns, ops.reshape(x, shape=(height, w, channels)))  # (H, W, C)
    return ops.reshape(x, shape=(height * width, channels))


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
def bicubic_matrix(source: int, target: int) -> np.ndarray:
    """(target, source): row i holds the weights of its 4 neighbours, around (i + 1/2) source / target - 1/2."""
    centre = (np.arange(target) + 0.5) * (source / target) - 0.5
    base = np.floor(centre)
    matrix = np.zeros((target, source))
    for offset in (-1, 0, 1, 2):
        neighbour = np.clip(base + offset, 0, source - 1).astype(int)
        np.add.at(matrix, (np.arange(target), neighbour), keys_kernel(np.abs(centre - base - offset)))
    matrix.flags.writeable = False
    return matrix


def keys_kernel(distance: np.ndarray, a: float = _A) -> np.ndarray:
    """Keys' cubic (1981, IEEE ASSP 29, eq. 4), of parameter a, at distances in [0, 2]."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    weights: np.ndarray = np.where(distance <= 1, near, far)
    return weights
