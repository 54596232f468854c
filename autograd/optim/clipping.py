"""The norm of all gradients together, and keeping it below a bound."""

from __future__ import annotations

from typing import Any

from .. import tree
from ..backend import Array, xp
from ..tree import Tree


def global_norm(gradients: Tree) -> Any:
    """sqrt of the sum of the squares of all elements of a tree: a 0-d array of its library, 0.0 for an empty tree."""
    arrays = [array for _, array in tree.leaves(gradients)]
    if not arrays:
        return 0.0
    return xp(arrays[0]).sqrt(sum(norm_squared(array) for array in arrays))


def clip_by_global_norm(gradients: Tree, max_norm: float, *, eps: float = 0.0) -> Tree:
    """The gradients, scaled down to the norm `max_norm` when theirs is larger (Pascanu et al. 2013, arXiv 1211.5063).

        g' = g max_norm / max(norm + eps, max_norm)

    `eps` is 0 in optax and 1e-6 in PyTorch. Shapes and dtypes stay; nothing waits for a device. Raises `ValueError`
    unless `max_norm` is positive.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be positive, got {max_norm}")
    norm = global_norm(gradients)
    factors: dict[Any, Array] = {}

    def clipped(g: Array) -> Array:
        if g.dtype not in factors:
            factors[g.dtype] = (max_norm / xp(g).maximum(norm + eps, max_norm)).astype(g.dtype)
        return g * factors[g.dtype]

    return tree.map(clipped, gradients)


def norm_squared(array: Array) -> Array:
    """The sum of the squares of all elements."""
    flat = array.reshape(-1)
    return flat @ flat
