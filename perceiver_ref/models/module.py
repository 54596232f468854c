"""What a model's parameters are (shape and initial distribution), and the base class of all models."""

from __future__ import annotations

import copy
import inspect
import math
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, Generic, Self, TypeVar, overload

import numpy as np

from ..autograd import backend as backends
from ..autograd import tree
from ..autograd.checks import MIXED
from ..autograd.tree import Tree
from ..errors import InputError, input_errors, listed, one_of, shortened
from ..host.memory import gib, require
from .constraints import Exchangeable, check_fields

_LARGEST = 1 << 42  # elements, 16 TiB: the largest that was published have a thousandth of it
Initializer = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
M = TypeVar("M", bound="Module")
T_co = TypeVar("T_co", covariant=True)


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
    """Decorator for a model's `apply`: when it fails, parameters that do not fit are named as the cause, and inputs
    that are no arrays or of another dtype than the parameters."""

    @wraps(apply)
    def wrapped(self: Module, params: Tree, *arguments: Any, **options: Any) -> Any:
        try:
            return apply(self, params, *arguments, **options)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            self.check(params)
            if not isinstance(error, InputError):
                given = inspect.signature(apply).bind_partial(self, params, *arguments, **options).arguments
                check_inputs(params, given, MIXED in str(error))
            raise

    return wrapped


_NO_INPUTS = ("self", "params", "p", "call", "mask", "request", "elements")


def check_inputs(params: Tree, given: Mapping[str, Any], mixed: bool) -> None:
    """`InputError` for a list or a data frame among a call's arguments, and, where dtypes were `mixed`, for numbers of
    another one than the parameters'."""
    dtype = next((a.dtype for _, a in tree.leaves(params) if getattr(a, "dtype", np.dtype(bool)).kind == "f"), None)
    for name, value in given.items():
        if name in _NO_INPUTS:
            continue
        parts = value if isinstance(value, Mapping) else {name: value}
        for inner, part in parts.items():
            what = name if inner == name else f"{name}[{inner!r}]"
            if hasattr(part, "detach"):
                raise InputError(f"{what} are a tensor of PyTorch; give an array, {what}.detach().cpu().numpy()")
            if isinstance(part, (list, tuple, str)) or hasattr(part, "to_numpy"):
                raise InputError(
                    f"{what} are a {type(part).__name__}; give an array, numpy.asarray({what}, {str(dtype)!r})"
                )
            found = getattr(part, "dtype", None)
            if mixed and found is not None and dtype is not None and found != dtype and np.dtype(found).kind in "fiu":
                raise InputError(f"{what} are {found}, parameters {dtype}; convert them, {what}.astype({str(dtype)!r})")


class part(Generic[T_co]):  # noqa: N801 - a decorator
    """A part of a model, or a tuple of parts, made of its fields on first use and kept.

    Its parameters are the model's under its name. None is no part.
    """

    def __init__(self, make: Callable[[Any], T_co]) -> None:
        self.make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, model: None, cls: type) -> Self: ...
    @overload
    def __get__(self, model: Module, cls: type) -> T_co: ...
    def __get__(self, model: Module | None, cls: type) -> Self | T_co:
        if model is None:
            return self
        try:
            made = self.make(model)
        except InputError as error:
            raise error.inside(self.name) from error
        if getattr(cls, self.name) is not self:  # asked for by a class that makes another one of it
            return made
        kept: T_co = model.__dict__.setdefault(self.name, made)
        return kept


class Module(Exchangeable):
    """Base of all models: a frozen dataclass of hyper-parameters, a tree of `Parameter`s, and a pure `apply`.

    Its parts are the fields that are models, also in mappings by name, and what is declared a `part`.
    """

    def __post_init__(self) -> None:
        """Refuses what a field may not hold (`constraints`), before and after a class's own checks."""
        check_fields(self)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__post_init__" in cls.__dict__:
            cls.__post_init__ = _after_fields(cls.__dict__["__post_init__"])  # type: ignore[assignment]

    def parts(self) -> dict[str, Module]:
        """The parts by name: fields first, then in order of definition; inside mappings and tuples "name.key"."""
        declared = [name for cls in reversed(type(self).__mro__) for name, a in vars(cls).items() if type(a) is part]
        found: dict[str, Module] = {}
        for name in dict.fromkeys([*getattr(self, "__dataclass_fields__", ()), *declared]):
            value = getattr(self, name)
            for key, item in _items(value):
                if isinstance(item, Module):
                    found[f"{name}.{key}" if key else name] = item
        return found

    def parameters(self) -> Tree:
        """The tree of `Parameter`s that `init` draws and `apply` expects: those of each part, by name."""
        made = {}
        for name, part in self.parts().items():
            try:
                made[name] = part.parameters()
            except InputError as error:
                raise error.inside(name) from error
        return made

    def state(self) -> Tree:
        """The tree of running statistics, as `Parameter`s with their starting values; empty for most models."""
        return {}

    def replace(self, path: str, part: Module) -> Self:
        """The model with another part at a dotted path, "encoder.self_attention.mlp"; `InputError` where none is."""
        for name, own in self.parts().items():
            if path == name:
                return self._with({name: part})
            if path.startswith(f"{name}."):
                return self._with({name: own.replace(path[len(name) + 1 :], part)})
        raise one_of(f"part of {type(self).__name__}", path, self.parts())

    def map_parts(self, change: Callable[[Module], Module]) -> Self:
        """The model with `change(part)` in place of every part, at any depth, inner ones first.

        Parts in which nothing changes are the model's own, and so is the model then.
        """
        parts = self.parts()
        made = {name: change(own.map_parts(change)) for name, own in parts.items()}
        changed = {name: new for name, new in made.items() if new is not parts[name]}
        return self._with(changed) if changed else self

    def with_fields(self, **values: Any) -> Self:
        """The model with other values of fields and its parts as they are, whatever the fields say of these."""
        made = copy.copy(self)
        made.__dict__.update(values)
        return made

    def _with(self, parts: Mapping[str, Module]) -> Self:
        values: dict[str, Any] = {}
        for path, new in parts.items():
            name, _, key = path.partition(".")
            value = values.get(name, getattr(self, name))
            if isinstance(value, tuple):
                new_value: Any = tuple(new if str(i) == key else old for i, old in enumerate(value))
            else:
                new_value = {**value, key: new} if key else new
            values[name] = new_value
        return self.with_fields(**values)

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

    def init_state(self, *, dtype: Any = np.float32, backend: str = "numpy") -> Tree:
        """The running statistics before any training, in the structure of `state`: empty for most models.

        They go into `Call(state=...)`, and come back updated in `Call.updates`. `dtype` as in `init`.
        """
        dtype = floating_dtype(dtype)
        rng = np.random.default_rng(0)  # they are constants

        def made(parameter: Parameter) -> Any:
            return backends.to_backend(parameter.initializer(rng, parameter.shape).astype(dtype), backend)

        return tree.map(made, self.state())

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


def _items(value: Any) -> list[tuple[str, Any]]:
    """What a field holds, by key; by "" where it is no mapping and no tuple."""
    if isinstance(value, Mapping):
        return list(value.items())
    return [(str(i), item) for i, item in enumerate(value)] if isinstance(value, tuple) else [("", value)]


def variant(module: Module, cls: type[M], **options: Any) -> M:
    """The same hyper-parameters as a subclass, with options of its own."""
    return cls(**{f.name: getattr(module, f.name) for f in fields(module)}, **options)  # type: ignore[arg-type]
