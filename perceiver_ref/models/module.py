"""What a model's parameters are (shape and initial distribution), and the base class of all models."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np

from ..autograd import backend as backends
from ..autograd import tree
from ..autograd.tree import Tree
from ..errors import InputError, input_errors, listed, shortened
from ..host.memory import gib, require
from .constraints import check_fields
from .variation import variable

_LARGEST = 1 << 42  # elements, 16 TiB: the largest that was published have a thousandth of it
Initializer = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


@dataclass(frozen=True)
class Parameter:
    """One array of a model: its shape, and how it is drawn at the start."""

    shape: tuple[int, ...]
    initializer: Initializer

    def __post_init__(self) -> None:
        if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in self.shape):
            shape = shortened(self.shape)
            raise InputError(f"a parameter cannot have the shape {shape}: sizes are whole numbers, not negative")
        if self.size > _LARGEST:
            raise InputError(f"a parameter of shape {shortened(self.shape)} needs {gib(4 * self.size)} in float32")

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


def floating_dtype(dtype: Any) -> np.dtype:
    """The dtype of parameters that was asked for: float16, float32 or float64; `InputError` for anything else."""
    found: np.dtype[Any] | None
    try:
        found = None if dtype is None else np.dtype(dtype)
    except (TypeError, ValueError):
        found = None
    if found is None or found.kind != "f" or found.itemsize not in (2, 4, 8) or not found.isnative:
        raise InputError(f"dtype must be float16, float32 or float64, got {dtype!r}")
    exact: np.dtype[Any] = found
    return exact


def zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """All 0: biases and norm offsets."""
    return np.zeros(shape)


def ones(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """All 1: norm scales."""
    return np.ones(shape)


def truncated_normal(deviation: float) -> Initializer:
    """Normal of this standard deviation, redrawn beyond two of them (as Haiku's TruncatedNormal, uncorrected)."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        values = rng.standard_normal(shape)
        while (outside := np.flatnonzero(np.abs(values) > 2)).size:
            values.flat[outside] = rng.standard_normal(outside.size)
        return values * deviation

    return draw


def fan_in_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Truncated normal of standard deviation 1 / sqrt(inputs): Haiku's default for a linear layer or a convolution.

    The inputs of an output are all axes but the last.
    """
    return truncated_normal(1 / math.sqrt(max(math.prod(shape[:-1]), 1)))(rng, shape)


def fan_in_scaled(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """The same with the deviation corrected for the truncation (Haiku's VarianceScaling(1)): attention and MLP."""
    return fan_in_normal(rng, shape) / 0.87962566103423978


def _after_fields(own: Callable[[Any], None]) -> Callable[[Any], None]:
    """A class's own checks, which may say more, between those of what its fields are and of their bounds."""

    @wraps(own)
    def checks(self: Any) -> None:
        try:
            check_fields(self)
        except InputError:
            check_fields(self, bounds=False)
            with suppress(ArithmeticError):  # a remainder by a size of 0
                own(self)
            raise
        own(self)

    return checks


def explains_parameters(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator for a model's `apply`: when it fails, parameters that do not fit are named as the cause."""

    @wraps(apply)
    def wrapped(self: Module, params: Tree, *arguments: Any, **options: Any) -> Any:
        try:
            return apply(self, params, *arguments, **options)
        except (KeyError, IndexError, TypeError, ValueError):
            self.check(params)
            raise

    return wrapped


class Module:
    """Base of all models: a frozen dataclass of hyper-parameters, a tree of `Parameter`s, and a pure `apply`."""

    def __post_init__(self) -> None:
        """Refuses what a field may not hold (`constraints`), before and after a class's own checks."""
        check_fields(self)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__post_init__" in cls.__dict__:
            cls.__post_init__ = _after_fields(cls.__dict__["__post_init__"])  # type: ignore[assignment]
        if "apply" in cls.__dict__:
            cls.apply = variable(cls.__name__)(cls.__dict__["apply"])  # type: ignore[attr-defined]

    def parameters(self) -> Tree:
        """The tree of `Parameter`s that `init` draws and `apply` expects."""
        raise NotImplementedError(f"{type(self).__name__} defines no parameters")

    def state(self) -> Tree:
        """The tree of running statistics, as `Parameter`s with their starting values; empty for most models."""
        return {}

    def init(self, seed: int = 0, *, dtype: Any = np.float32, backend: str = "numpy") -> Tree:
        """Fresh parameters in the structure of `parameters`.

        Drawn on the host, each from its own stream of `seed` and its path, so that they are equal on every backend and
        one parameter's values do not depend on which others there are. `dtype` is float16, float32 or float64;
        `InputError` for another one, and for a seed that is no whole number of at least 0.
        """
        dtype = floating_dtype(dtype)
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise InputError(f"seed must be a whole number of at least 0, got {seed!r}")

        def draw(path: str, parameter: Parameter) -> Any:
            rng = np.random.default_rng([seed, zlib.crc32(path.encode())])
            return backends.to_backend(parameter.initializer(rng, parameter.shape).astype(dtype), backend)

        spec = self.parameters()
        require(f"{type(self).__name__} with {self.count():,} parameters", self.count() * np.dtype(dtype).itemsize)
        return tree.unflatten_like(spec, [draw(path, parameter) for path, parameter in tree.leaves(spec)])

    def count(self) -> int:
        """The number of scalar parameters."""
        return sum(parameter.size for _, parameter in tree.leaves(self.parameters()))

    def check(self, params: Tree) -> None:
        """Raise `InputError`, listing the paths, unless `params` has exactly the expected arrays and shapes."""
        with input_errors(f"parameters do not fit {type(self).__name__}"):
            want, have = tree.flatten(self.parameters()), tree.flatten(params)
        missing, extra = sorted(set(want) - set(have)), sorted(set(have) - set(want))
        wrong = [
            f"{path} is {tuple(have[path].shape)}, expected {want[path].shape}"
            for path in want
            if path in have and tuple(have[path].shape) != want[path].shape
        ]
        found = {"missing": missing, "unexpected": extra, "wrong shape": wrong}
        problems = [f"{what}: {listed(names)}" for what, names in found.items() if names]
        if problems:
            raise InputError(f"parameters do not fit {type(self).__name__}; {'; '.join(problems)}")
