"""One drawn call of an op: values of every kind, in every memory layout, on either library."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

LAYOUTS = ("rows", "columns", "strided", "reversed")
Shape = tuple[int, ...]
Values = Callable[[np.random.Generator, Shape], np.ndarray]


@dataclass(frozen=True)
class Example:
    """One call: its positional arguments (arrays, numbers, None), its options, and how arrays lie in memory."""

    arrays: tuple[Any, ...]
    static: dict[str, Any] = field(default_factory=dict)
    layout: str = "rows"

    def on(self, xp: ModuleType, dtype: Any = np.float64) -> tuple[list[Any], dict[str, Any]]:
        """Arguments and options for the library `xp`, floating-point arrays in `dtype`, read-only on NumPy."""
        arrays = [place(xp, value, dtype, self.layout) for value in self.arrays]
        return arrays, {key: place(xp, value, dtype, self.layout) for key, value in self.static.items()}


def place(xp: ModuleType, value: Any, dtype: Any, layout: str) -> Any:
    """An array with the elements of `value` in the memory layout called `layout`; other values as they are."""
    if not isinstance(value, np.ndarray):
        return value
    array = xp.asarray(value, dtype if value.dtype.kind == "f" else value.dtype)
    backwards = (..., *[slice(None, None, -1)] * array.ndim)
    if layout == "columns":
        array = array.T.copy().T
    elif layout == "strided":
        wide = xp.zeros((*array.shape, 2), array.dtype)
        wide[..., 0] = array
        array = wide[..., 0]
    elif layout == "reversed":
        array = array[backwards].copy()[backwards]
    else:
        array = array.copy()
    if isinstance(array, np.ndarray):
        array.flags.writeable = False
    return array


def anywhere(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return np.asarray(rng.uniform(-2, 2, shape))


def positive(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return np.asarray(rng.uniform(0.3, 2, shape))


def off_zero(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return np.asarray(positive(rng, shape) * rng.choice([-1.0, 1.0], shape))


def spaced(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """All different, at least 0.2 apart."""
    size = math.prod(shape)
    return np.asarray(0.2 * (rng.permutation(size).reshape(shape) - size // 2))


def even(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return np.asarray(0.4 * rng.integers(-3, 4, shape))


def odd(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return np.asarray(even(rng, shape) + 0.2)


def few(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Few different values, so that ties are common."""
    return np.asarray(rng.integers(-1, 2, shape), float)


def coins(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return np.asarray(rng.random(shape) < 0.5)


def fractions(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return np.asarray(rng.uniform(0.05, 0.95, shape))


rngs = st.integers(0, 2**32 - 1).map(np.random.default_rng)
layouts = st.sampled_from(LAYOUTS)
sides = st.integers(0, 3)
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
reductions = st.sampled_from(["mean", "sum", "none"])
Draw = Any


def a_call(function: Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]) -> Callable[..., Any]:
    """A strategy of Examples from a function `(draw, rng, ...) -> (arrays, options)`."""

    @st.composite
    def examples(draw: Draw, *arguments: Any, **keywords: Any) -> Example:
        arrays, static = function(draw, draw(rngs), *arguments, **keywords)
        return Example(arrays, static, draw(layouts))

    return functools.wraps(function)(examples)
