"""The norm of all gradients together, and keeping it below a bound."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import tree
from ..backend import Array, as_array, rounded_to, wide, xp
from ..sums import sum_of_squares
from ..tree import Tree


def global_norm(gradients: Tree) -> Any:
    """sqrt of the sum of the squares of all elements of a tree: a 0-d array of its library, 0.0 for an empty tree.

    In the dtype of the gradients, but float32 for float16, in which the norm of many numbers would be infinite.
    """
    arrays = [array for _, array in tree.leaves(gradients)]
    if not arrays:
        return 0.0
    return as_array(_norm(arrays).astype(np.result_type(np.float32, *(a.dtype for a in arrays))))


def clip_by_global_norm(gradients: Tree, max_norm: float, *, eps: float = 0.0) -> Tree:
    """The gradients, scaled down to the norm `max_norm` when theirs is larger (Pascanu et al. 2013, arXiv 1211.5063).

        g' = g max_norm / max(norm + eps, max_norm)

    `eps` is 0 in optax and 1e-6 in PyTorch. Shapes and dtypes stay; nothing waits for a device. Raises `ValueError`
    unless `max_norm` is positive.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be positive, got {max_norm}")
    arrays = [array for _, array in tree.leaves(gradients)]
    if not arrays:
        return gradients
    factor = clip_factor(arrays, max_norm, eps=eps)
    factors: dict[Any, Array] = {}

    def clipped(g: Array) -> Array:
        single = wide(g)
        if single.dtype not in factors:
            factors[single.dtype] = factor.astype(single.dtype)
        return as_array(rounded_to(g.dtype, single * factors[single.dtype]))

    return tree.map(clipped, gradients)


def clip_factor(arrays: list[Array], max_norm: float, *, eps: float = 0.0) -> Array:
    """What `clip_by_global_norm` multiplies these gradients by, of which there is one at least: 0-d, float64."""
    return max_norm / xp(arrays[0]).maximum(_norm(arrays) + eps, max_norm)


def _norm(arrays: list[Array]) -> Array:
    """The norm of all of them, in float64."""
    return xp(arrays[0]).sqrt(sum(sum_of_squares(array) for array in arrays))
