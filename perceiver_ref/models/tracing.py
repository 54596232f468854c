"""Named intermediate values: `with trace() as t: model.apply(...)` fills `t` with name -> array, in order.

Models call `point` where a value has a name and `scope` around a part; names are the scopes and the point joined by
dots (`encoder.blocks.0.3.attention.query`). Outside a trace both do nothing. A name that occurs again gets `@1`, `@2`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from typing import Any, TypeVar

from ..autograd import ops
from ..autograd.core import array_of
from ..autograd.handlers import Step
from ..autograd.scoped import Scoped

_LARGEST_MAP = 1 << 22  # elements: attention weights above it are traced only when asked for by name


Only = Callable[[str], bool] | Set[str] | None
T = TypeVar("T", bound="Trace")


class Trace(dict[str, Any]):
    """Name -> array (or `Tensor`, for a trace that keeps them), in the order of computation."""

    def __init__(self, only: Only, tensors: bool, kept: Callable[[str, Any], Any] | None = None) -> None:
        super().__init__()
        self.kept = kept
        self.only = only.__contains__ if isinstance(only, Set) else only
        self.names = only if isinstance(only, Set) else frozenset()
        self.tensors = tensors
        self.scopes: list[scope] = []
        self._times: dict[str, int] = {}

    def name(self, point: str) -> str:
        """The full name of a point within the current scopes."""
        names = [inner.name for inner in self.scopes]
        return ".".join([*names, point] if point else names)

    def record(self, point: str, value: Any) -> None:
        """Keep a value, unless `only` says otherwise."""
        name = self.name(point)
        if self.only is not None and not self.only(name):
            return
        times = self._times.get(name, 0) if name in self else 0  # looked for from there: a loop may record thousands
        while (key := name if times == 0 else f"{name}@{times}") in self:
            times += 1
        self._times[name] = times
        value = value if self.tensors else array_of(value)
        self[key] = value if self.kept is None else self.kept(key, value)


_active: Scoped[Trace] = Scoped("_active")


@contextmanager
def tracing(made: T) -> Iterator[T]:
    """Within this context a trace, of a class of its own, gets every value."""
    with _active.entered(made):
        yield made


@contextmanager
def trace(
    only: Only = None, *, tensors: bool = False, kept: Callable[[str, Any], Any] | None = None
) -> Iterator[Trace]:
    """Record the named values computed inside this context; traces may be nested, and each gets every value.

    `only`: a predicate on names, to keep less, or a set of names; these may be of values as another implementation
    arranges them (docs/TRACE.md), which nothing else asks for. `tensors`: keep `Tensor`s, so that a traced value can be
    part of a loss. `kept(name, value)`: what to keep in place of each value.

    >>> import numpy as np
    >>> from perceiver_ref.models.encoder import Encoder
    >>> encoder = Encoder(inputs=3, latents=2, channels=4, layers=1, self_heads=1)
    >>> with trace(lambda name: name.endswith("weights")) as traced:
    ...     latents = encoder.apply(encoder.init(seed=0), np.ones((1, 5, 3), np.float32))
    >>> {name: value.shape for name, value in traced.items()}["encoder.cross_attention.attention.weights"]
    (1, 1, 2, 5)
    """
    with tracing(Trace(only, tensors, kept)) as made:
        yield made


def where() -> str:
    """The scopes of the innermost trace, joined by dots; "" outside any."""
    active = _active.values()
    return active[-1].name("") if active else ""


class scope:  # noqa: N801 - used as `with scope("encoder"):`
    """A part of the model: its name goes before the names of the points inside."""

    __slots__ = ("name", "traces")

    def __init__(self, name: str) -> None:
        self.name = name
        self.traces = _active.values()

    def __enter__(self) -> None:
        for active in self.traces:
            active.scopes.append(self)

    def __exit__(self, *exception: object) -> None:
        for active in self.traces:
            last = len(active.scopes) - 1  # this one, unless a generator left another one open
            del active.scopes[next(i for i in range(last, -1, -1) if active.scopes[i] is self)]


@Step
def point(name: str, value: Any) -> Any:
    """Record `value` under `name` within the current scopes ("" names the scope itself); returns the value."""
    for active in _active.values():
        active.record(name, value)
    return value


def lazy_point(name: str, shape: tuple[int, ...], compute: Callable[[], Any]) -> None:
    """Record a value that is computed only for a trace: when it is small, or when `only` asks for it."""
    small = math.prod(shape) <= _LARGEST_MAP
    _record([t for t in _active.values() if (small if t.only is None else t.only(t.name(name)))], name, compute)


def asked_point(name: str, compute: Callable[[], Any]) -> None:
    """Record a value only for traces of a set of names with this one: what has points of its own, as another
    implementation arranges it."""
    _record([t for t in _active.values() if t.names and t.name(name) in t.names], name, compute)


def _record(wanting: list[Trace], name: str, compute: Callable[[], Any]) -> None:
    if wanting:
        value = compute()
        for active in wanting:
            active.record(name, value)


def asked_image(name: str, value: Any) -> None:
    """`asked_point` of images (..., H, W, C), or what computes them, as (..., C, H, W): `name.channels_first`."""

    def turned() -> Any:
        x = value() if callable(value) else value
        axes = len(x.shape)
        return ops.transpose(x, axes=(*range(axes - 3), axes - 1, axes - 3, axes - 2))

    asked_point(f"{name}.channels_first", turned)


def image_point(name: str, value: Any) -> Any:
    """`point` of images (..., H, W, C), which are there as `name.channels_first`, too, where that is asked for."""
    asked_image(name, value)
    return point(name, value)
