"""`check_grads`: compare backward rules with central differences of the function itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import tree
from .backend import is_array, to_host, xp
from .transforms import vjp
from .tree import Tree


def check_grads(
    function: Callable[..., Any], *arguments: Tree, seed: int = 0, directions: int = 2, tolerance: float = 1e-6
) -> None:
    """Raise `AssertionError` unless the gradients of `function` at `arguments` are right.

    `function` maps trees of float64 arrays to a tree of arrays. Two tests, for one random cotangent:

    - along each of `directions` random directions over all arguments together, the central difference of
      sum(output * cotangent) agrees with the inner product of gradient and direction;
    - for each array on its own, so that a wrong small gradient cannot hide behind a large right one, and at single
      elements of it, which an error in the transpose or order of elements changes.

    The error is relative to the size of what is compared, |g| |d|. `tolerance` 1e-6 leaves room for the difference
    quotient: with a step of cbrt(eps) its error is near 4e-11 of the third derivative, and rounding near 1e-10.
    Raises `TypeError` for arrays that are not float64, in which differences are too coarse to decide.
    """
    arrays = [(path, a) for path, a in tree.leaves(list(arguments)) if is_array(a) and a.dtype.kind == "f"]
    if wrong := next((path for path, a in arrays if a.dtype != np.float64), None):
        raise TypeError(f"check_grads needs float64 arrays; argument {wrong} is not")
    rng = np.random.default_rng(seed)
    out, pull = vjp(function, *arguments)
    cotangents = tree.map(lambda o: xp(o).asarray(rng.standard_normal(o.shape)), out)
    gradients = tree.flatten(list(pull(cotangents)))
    for path, array in arrays:
        if path not in gradients:
            raise AssertionError(f"argument {path}: no gradient was returned")
        gradient = gradients[path]
        if gradient.shape != array.shape or gradient.dtype != array.dtype:
            raise AssertionError(
                f"argument {path}: gradient is {gradient.dtype}{gradient.shape}, expected {array.dtype}{array.shape}"
            )

    def along(direction: dict[str, np.ndarray], step: float) -> float:
        """sum(output * cotangent) after a step from the arguments along `direction`."""
        moved = [
            a if path not in direction else a + step * xp(a).asarray(direction[path])
            for path, a in tree.leaves(list(arguments))
        ]
        result = function(*tree.unflatten_like(list(arguments), moved))
        pairs = zip(tree.leaves(result), tree.leaves(cotangents))
        return sum(float(to_host((o * c).sum())) for (_, o), (_, c) in pairs)

    def compare(what: str, direction: dict[str, np.ndarray]) -> None:
        step = float(np.cbrt(np.finfo(np.float64).eps))
        numeric = (along(direction, step) - along(direction, -step)) / (2 * step)
        host = {path: to_host(gradients[path]) for path in direction}
        analytic = sum(float((host[path] * d).sum()) for path, d in direction.items())
        size = sum(float(np.sqrt((host[p] ** 2).sum() * (d**2).sum())) for p, d in direction.items())
        error = abs(numeric - analytic)
        if not error <= tolerance * max(size, abs(numeric), 1.0):
            raise AssertionError(f"{what}: gradient gives {analytic:.12g}, differences give {numeric:.12g}")

    sized = [(path, a.shape) for path, a in arrays if a.size]
    for _ in range(directions):
        compare("all arguments", {path: rng.standard_normal(shape) for path, shape in sized})
        for path, shape in sized:
            compare(f"argument {path}", {path: rng.standard_normal(shape)})
            single = np.zeros(shape)
            single.flat[rng.integers(single.size)] = 1.0
            compare(f"one element of argument {path}", {path: single})
