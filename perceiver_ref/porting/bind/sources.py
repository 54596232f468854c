"""What a parameter of ours may be read from: an array of the port's, a part of one, several of them, or a number.

A `Source` is written into the map as it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from .views import Shape, View, layouts


@dataclass(frozen=True)
class Part:
    """A view of one of the port's arrays, in a shape."""

    name: str
    view: View
    shape: Shape | None
    """None: whatever the view gives."""

    def read(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Its values."""
        return self.view.read(arrays[self.name], self.shape)


@dataclass(frozen=True, eq=False)
class Source:
    """Parts joined along an axis, or a number where the port has nothing."""

    shape: Shape
    parts: tuple[Part, ...] = ()
    axis: int = 0
    number: float = 0.0
    value: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The port's arrays that it reads."""
        return tuple(part.name for part in self.parts)

    @cached_property
    def key(self) -> bytes:
        """Equal for equal values."""
        return np.ascontiguousarray(self.value).tobytes()

    @cached_property
    def identity(self) -> tuple[object, ...]:
        """Equal for the same reading."""
        return (self.parts, self.axis, self.number)

    def said(self) -> str:
        """In words, for a table."""
        if not self.parts:
            return f"absent: {self.number:g}"
        if len(self.parts) > 1:
            return f"{', '.join(self.names)} along axis {self.axis}"
        words = self.parts[0].view.said()
        return f"{self.names[0]} ({words})" if words else self.names[0]


def read(shape: Shape, parts: Sequence[Part], axis: int, number: float, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The values of a source."""
    if not parts:
        return np.full(shape, number)
    values = [part.read(arrays) for part in parts]
    return values[0] if len(values) == 1 else np.concatenate(values, axis=axis)


class Pool:
    """The port's arrays, and for every parameter of ours what it may be read from."""

    def __init__(self, arrays: Mapping[str, np.ndarray], heads: Sequence[int]) -> None:
        self.arrays = {n: np.asarray(a, np.float64) for n, a in arrays.items() if a.dtype.kind in "fiu"}
        self.heads = tuple(sorted(set(heads)))
        self.order = {name: i for i, name in enumerate(self.arrays)}
        self._groups = _numbered(self.arrays)
        self._cache: dict[tuple[Shape, float | None], list[Source]] = {}

    def sources(self, shape: Shape, absent: float | None) -> list[Source]:
        """Everything of the right size; `absent` is what stands for a parameter that the port does not have."""
        key = (shape, absent)
        if key not in self._cache:
            self._cache[key] = list(self._made(shape, absent))
        return self._cache[key]

    def _made(self, shape: Shape, absent: float | None) -> list[Source]:
        made = []
        for name, array in self.arrays.items():
            for view in layouts(array.shape, shape, self.heads):
                made.append(self._source(shape, (Part(name, view, shape),), 0))
        made += self._joined(shape)
        if absent is not None:
            made.append(Source(shape, (), 0, absent, np.full(shape, absent)))
        return made

    def _source(self, shape: Shape, parts: tuple[Part, ...], axis: int) -> Source:
        return Source(shape, parts, axis, 0.0, read(shape, parts, axis, 0.0, self.arrays))

    def _joined(self, shape: Shape) -> list[Source]:
        """A matrix for each head, which together are ours along one axis."""
        made = []
        for group in self._groups:
            count = len(group)
            given = self.arrays[group[0]].shape
            if count * math.prod(given) != math.prod(shape):
                continue
            for axis, length in enumerate(shape):
                if length % count:
                    continue
                each = (*shape[:axis], length // count, *shape[axis + 1 :])
                for view in layouts(given, each, ()):
                    made.append(self._source(shape, tuple(Part(name, view, each) for name in group), axis))
        return made


def _numbered(arrays: Mapping[str, np.ndarray]) -> list[list[str]]:
    """Arrays of one shape whose names differ in one number alone, by that number."""
    groups: dict[tuple[str, int, Shape], list[tuple[int, str]]] = {}
    for name, array in arrays.items():
        for found in re.finditer(r"\d+", name):
            pattern = name[: found.start()] + "#" + name[found.end() :]
            groups.setdefault((pattern, found.start(), array.shape), []).append((int(found.group()[:9]), name))
    return [[name for _, name in sorted(group)] for group in groups.values() if 1 < len(group) <= 64]
