"""`check_grads`: compare backward rules with central differences of the function itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import tree
from .backend import is_array, to_host, xp
from .gradients import vjp
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
    quotient: with a step of cbrt(eps) its error is near 4e-11 of the third derivative. Where that is large, as in norms
    of a few channels, a tenth and a hundredth of the step are tried, whose errors are 100 and 10,000 times less; no
    step helps a wrong gradient. Rounding of large outputs is allowed for besides, 4 eps of sum |output * cotangent|
    over the step, so that it does not accuse a right gradient.
    Raises `TypeError` for arrays that are not float64, in which differences are too coarse to decide.
    """
    arrays = [(path, a) for path, a in tree.leaves(list(arguments)) if is_array(a) and a.dtype.kind == "f"]
    if wrong := next((path for path, a in arrays if a.dtype != np.float64), None):
        raise TypeError(f"check_grads needs float64 arrays; argument {wrong} is not")
    # a stream of its own: arguments drawn from default_rng(seed) would equal the cotangent, and hide transpositions
    rng = np.random.default_rng((seed, 1))
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

    def along(direction: dict[str, np.ndarray], step: float) -> tuple[float, float]:
        """sum(output * cotangent) after a step from the arguments along `direction`, and the sum of magnitudes."""
        moved = [
            a if path not in direction else xp(a).asarray(a + step * xp(a).asarray(direction[path]))
            for path, a in tree.leaves(list(arguments))
        ]
        result = function(*tree.unflatten_like(list(arguments), moved))
        products = [o * c for (_, o), (_, c) in zip(tree.leaves(result), tree.leaves(cotangents))]
        return sum(float(to_host(p.sum())) for p in products), sum(float(to_host(abs(p).sum())) for p in products)

    def compare(what: str, direction: dict[str, np.ndarray]) -> None:
        eps = float(np.finfo(np.float64).eps)
        host = {path: to_host(gradients[path]) for path in direction}
        analytic = sum(float((host[path] * d).sum()) for path, d in direction.items())
        size = sum(float(np.sqrt((host[p] ** 2).sum() * (d**2).sum())) for p, d in direction.items())
        for step in (float(np.cbrt(eps)) / 10**i for i in range(3)):
            (after, magnitude), (before, _) = along(direction, step), along(direction, -step)
            numeric = (after - before) / (2 * step)
            if abs(numeric - analytic) <= tolerance * max(size, abs(numeric), 1.0) + 4 * eps * magnitude / step:
                return
        raise AssertionError(f"{what}: gradient gives {analytic:.12g}, differences give {numeric:.12g}")

    sized = [(path, a.shape) for path, a in arrays if a.size]
    for _ in range(directions):
        compare("all arguments", {path: rng.standard_normal(shape) for path, shape in sized})
        for path, shape in sized:
            compare(f"argument {path}", {path: rng.standard_normal(shape)})
            single = np.zeros(shape)
            single.flat[rng.integers(single.size)] = 1.0
            compare(f"one element of argument {path}", {path: single})
