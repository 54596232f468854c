"""What the tests of the models share: random parameters, moving trees between backends, and comparing arrays."""

from __future__ import annotations

import os
import zlib
from typing import Any

import numpy as np

from perceiver_ref.autograd import tree
from perceiver_ref.autograd.backend import to_backend, to_host
from perceiver_ref.autograd.tree import Tree
from perceiver_ref.models.module import Module, Parameter

BACKEND = os.environ.get("PERCEIVER_REF_TESTED", "numpy")
"""What `--backend` names, for helpers; tests take the fixture, which skips where it cannot compute."""
ROUNDING = 1e-12
"""Bound for two float64 computations of the same small model in another order: some thousand roundings of 1e-16 through
a handful of layers measure near 1e-14, and any wrong term is near 1."""


def random_parameters(module: Module, seed: int = 0) -> Tree:
    """Parameters on the host in float64, biases and norms too, scaled so that activations and logits are near 1.

    Not `Module.init`, whose biases are 0 and norm scales 1: a swapped or dropped one would not show.
    """
    spec = module.parameters()

    def draw(path: str, parameter: Parameter) -> np.ndarray:
        values = np.random.default_rng([seed, zlib.crc32(path.encode())]).standard_normal(parameter.shape)
        if path.endswith("weight"):
            return values / np.sqrt(parameter.shape[0])
        return 1 + 0.3 * values if path.endswith("scale") else values

    return tree.unflatten_like(spec, [draw(path, parameter) for path, parameter in tree.leaves(spec)])


def normal(seed: int, *shape: int) -> np.ndarray:
    """Standard normal float64 values on the host."""
    return np.random.default_rng(seed).standard_normal(shape)


def on(backend: str, values: Tree, dtype: Any = None) -> Tree:
    """Every array of a tree on a backend; floating-point ones in `dtype` if given."""

    def moved(value: Any) -> Any:
        cast = dtype is not None and value.dtype.kind == "f"
        return to_backend(value.astype(dtype) if cast else value, backend)

    return tree.map(moved, values)


def host(values: Tree) -> Tree:
    """Every array of a tree as a NumPy array."""
    return tree.map(to_host, values)


def difference(ours: Any, expected: Any) -> float:
    """max |ours - expected| / max(max |expected|, 1): relative for large values, absolute for small ones."""
    ours, expected = np.asarray(to_host(ours)), np.asarray(to_host(expected))
    assert ours.shape == expected.shape, f"shape {ours.shape}, expected {expected.shape}"
    if not ours.size:
        return 0.0
    return float(np.abs(ours - expected).max() / max(np.abs(expected).max(), 1.0))


def assert_close(ours: Tree, expected: Tree, tolerance: float = ROUNDING) -> None:
    """Every array of one tree is within `tolerance` (see `difference`) of the other's at the same path."""
    flat, wanted = tree.flatten(ours), tree.flatten(expected)
    assert list(flat) == list(wanted)
    errors = {path or "value": difference(flat[path], wanted[path]) for path in wanted}
    wrong = {path: error for path, error in errors.items() if not error <= tolerance}
    assert not wrong, f"beyond {tolerance:.0e}: {wrong}"
