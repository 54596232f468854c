"""The norm of all gradients together, and keeping it below a bound."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import tree
from ..backend import Array, rounded_to, xp
from ..sums import sum_of_squares
from ..tree import Tree


def global_norm(gradients: Tree) -> Any:
    """sqrt of the sum of the squares of all elements of a tree: a 0-d array of its library, 0.0 for an empty tree."""
    arrays = [array for _, array in tree.leaves(gradients)]
    return rounded_to(np.result_type(*(a.dtype for a in arrays)), _norm(arrays)) if arrays else 0.0


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
    norm = _norm(arrays)  # in float64: that of float16 gradients may be beyond 65504
    factors: dict[Any, Array] = {}

    def clipped(g: Array) -> Array:
        if g.dtype not in factors:
            factors[g.dtype] = (max_norm / xp(g).maximum(norm + eps, max_norm)).astype(g.dtype)
        return g * factors[g.dtype]

    return tree.map(clipped, gradients)


def _norm(arrays: list[Array]) -> Array:
    return xp(arrays[0]).sqrt(sum(sum_of_squares(array) for array in arrays))
