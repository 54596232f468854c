"""The values that a port recorded, as a bag in which a value of the reference's is looked for, in whatever layout.

Each recorded array is there whole, and in the parts that a fused one may consist of. Four numbers of an array, which no
layout changes, say fast what cannot be the same; layouts decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from .views import View, layouts

_FUSED = (2, 3)
_LARGEST_SEARCHED = 1 << 22


@dataclass(frozen=True)
class Found:
    """Where a value was found: the record's name, the view of it, and the error that is left."""

    name: str
    view: View
    error: float


@dataclass
class _Piece:
    name: str
    array: np.ndarray
    whole: bool


def numbers_of(array: np.ndarray) -> np.ndarray:
    """Mean, mean of absolute values, least and largest: no more than e apart for arrays that are e apart."""
    return np.array([array.mean(), np.abs(array).mean(), array.min(), array.max()])


class Records:
    """A port's recorded values by name, in the order of recording."""

    def __init__(self, arrays: Mapping[str, np.ndarray], tolerance: float, heads: tuple[int, ...]) -> None:
        self.tolerance, self.heads = tolerance, heads
        self.arrays = {n: np.asarray(a, np.float64) for n, a in arrays.items() if a.dtype.kind == "f" and a.size}
        self.arrays = {n: a for n, a in self.arrays.items() if np.isfinite(a).all()}
        self._by_size: dict[int, list[_Piece]] = {}
        self._numbers: dict[int, np.ndarray] = {}
        self._centred: dict[tuple[int, int], list[tuple[float, np.ndarray, float]]] = {}
        for piece in self._pieces():
            self._by_size.setdefault(piece.array.size, []).append(piece)

    def has(self, size: int) -> bool:
        """Whether anything of this size was recorded."""
        return size in self._by_size

    def find(self, value: np.ndarray) -> Found | None:
        """The first record, or part of one, that holds this value in some layout."""
        return next(self.all(value), None)

    def all(self, value: np.ndarray) -> Iterator[Found]:
        """Every record that holds this value."""
        value = np.asarray(value, np.float64)
        pieces = self._by_size.get(value.size)
        if not pieces or not np.isfinite(value).all():
            return
        limit = self.tolerance * max(float(np.abs(value).max()), 1.0)
        if not tells(value, self.tolerance):
            return
        if value.size not in self._numbers:
            with np.errstate(all="ignore"):
                self._numbers[value.size] = np.stack([numbers_of(piece.array) for piece in pieces])
        with np.errstate(all="ignore"):  # masks of the lowest number
            apart = np.abs(self._numbers[value.size] - numbers_of(value)).max(axis=1)
        near = apart <= limit
        seen = set()
        for i in np.flatnonzero(near):
            piece = pieces[int(i)]
            if piece.name in seen:
                continue
            record = self.arrays[piece.name]
            if (found := _layout(record, value, limit, self.heads)) is not None:
                seen.add(piece.name)
                yield Found(piece.name, *found)

    def given(self, values: Iterable[object]) -> set[str]:
        """The records that are among values, results of ops."""
        names: set[str] = set()
        for made in values:
            value = np.asarray(made[0] if isinstance(made, tuple) else made)
            if value.dtype.kind == "f" and self.has(value.size):
                names |= {found.name for found in self.all(value)}
        return names

    def shifts(self, value: np.ndarray, width: int) -> list[np.ndarray]:
        """What may be added to the last axis, of `width` channels, to make `value` a record: (width,) each."""
        rows = np.asarray(value, np.float64).reshape(-1, width)
        mean = rows.mean(axis=0)
        spread = float(np.abs(rows - mean).mean())
        key = (value.size, width)
        if key not in self._centred:
            self._centred[key] = []
            for piece in self._by_size.get(value.size, []):
                for axes in _channel_axes(piece.array.shape, width):
                    others = tuple(axis for axis in range(piece.array.ndim) if axis not in axes)
                    centre = piece.array.mean(axis=others, keepdims=True)
                    apart = float(np.abs(piece.array - centre).mean())
                    self._centred[key].append((apart, centre.reshape(-1), float(np.abs(piece.array).max())))
        return [
            centre - mean
            for apart, centre, largest in self._centred[key]
            if abs(apart - spread) <= 4 * self.tolerance * max(largest, 1.0) + 1e-12
        ]

    def _pieces(self) -> Iterator[_Piece]:
        for name, array in self.arrays.items():
            yield _Piece(name, array, True)
            if array.size > _LARGEST_SEARCHED:
                continue
            for axis, length in enumerate(array.shape):
                for ratio in _FUSED:
                    if length % ratio or array.size // ratio < 2:
                        continue
                    each = length // ratio
                    before, after = array.shape[:axis], array.shape[axis + 1 :]
                    for number in dict.fromkeys((1, *self.heads, each)):
                        if each % number:
                            continue
                        split = array.reshape(*before, number, ratio, each // number, *after)
                        for i in range(ratio):
                            yield _Piece(name, np.take(split, i, axis=axis + 1), False)


def _channel_axes(shape: tuple[int, ...], width: int) -> Iterator[tuple[int, ...]]:
    for axis, length in enumerate(shape):
        if length == width:
            yield (axis,)
        for other in range(axis + 1, len(shape)):
            if length * shape[other] == width and length > 1 and shape[other] > 1:
                yield (axis, other)


def tells(value: np.ndarray, tolerance: float) -> bool:
    """Whether agreement with this value is no accident: it has more than one number in it, beyond the tolerance."""
    spread = float(value.max() - value.min()) if value.size else 0.0
    scale = max(float(np.abs(value).max(initial=0.0)), 1.0)
    if spread <= 100 * tolerance * scale:
        return False
    return value.size * math.log10(1 / tolerance) >= 9


def _layout(record: np.ndarray, value: np.ndarray, limit: float, heads: tuple[int, ...]) -> tuple[View, float] | None:
    """The view of a record that is the value, and what is left."""
    for view in layouts(record.shape, value.shape, heads):
        error = float(np.abs(view.read(record, value.shape) - value).max())
        if error <= limit:
            return view, error
    return None
