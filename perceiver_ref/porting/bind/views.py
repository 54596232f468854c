"""How one array is read out of another: a slice, axes split, one part taken, axes reordered, axes merged.

A `View` says it in whole numbers, so that it can be written down as JSON and be undone for gradients. `layouts` lists
the views by which an array of one shape may hold one of another: linear maps kept as (outputs, inputs), convolutions'
kernels, heads as an axis of their own, queries, keys and values fused in any order, layers stacked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import permutations

import numpy as np

Shape = tuple[int, ...]
_MOST_AXES = 5
_MOST_LAYERS = 64
_FUSED = (2, 3, 4)
"""How many maps of one shape are kept as one array: keys and values, queries too, and gates of a cell."""


@dataclass(frozen=True)
class View:
    """`array[slice].reshape(shape)`, `take` (axis, index) one after the other, `.transpose(order)`, `.reshape(...)`."""

    cut: tuple[int, int, int] | None = None
    """(axis, start, stop) of the array as it is."""
    shape: Shape | None = None
    take: tuple[tuple[int, int], ...] = ()
    order: Shape | None = None
    split: Shape | None = None
    """A shape before `order`, where axes are split last."""
    invert: bool = False
    """Of a mask: the other truth value."""

    def read(self, array: np.ndarray, wanted: Shape | None) -> np.ndarray:
        """The array in the shape that is wanted, as a view where NumPy can; `ValueError` where it does not fit."""
        if self.cut is not None:
            axis, start, stop = self.cut
            if not 0 <= start < stop <= array.shape[axis]:
                raise ValueError(f"no elements {start} to {stop} in an axis of {array.shape[axis]}")
            array = array[(slice(None),) * axis + (slice(start, stop),)]
        if self.shape is not None:
            array = array.reshape(self.shape)
        for axis, index in self.take:
            if not 0 <= index < array.shape[axis]:
                raise ValueError(f"no element {index} in an axis of {array.shape[axis]}")
            array = array[(slice(None),) * axis + (index,)]
        if self.split is not None:
            array = array.reshape(self.split)
        if self.order is not None:
            array = array.transpose(self.order)
        if self.invert:
            array = ~array if array.dtype.kind == "b" else 1 - array
        return array if wanted is None else array.reshape(wanted)

    def add(self, into: np.ndarray, value: np.ndarray) -> None:
        """The inverse: add a value where `read` takes it from."""
        part = self.read(into, value.shape)
        if np.shares_memory(part, into):
            part += value
        else:
            places = self.read(np.arange(into.size).reshape(into.shape), value.shape)
            flat = into.reshape(-1)
            flat[places.reshape(-1)] += value.reshape(-1)

    def within(self, given: Shape, axis: int, index: int) -> View:
        """The same reading of number `index` along an axis of an array of the shape `given`.

        `ValueError` where the axis is one of those that are merged.
        """
        rest = [*given[:axis], *given[axis + 1 :]]
        cut = self.cut
        if cut is not None:
            rest[cut[0]] = cut[2] - cut[1]
            cut = (cut[0] + (cut[0] >= axis), *cut[1:])
        if not self.take:  # the part is there first, and is split after
            shape = (*rest[:axis], given[axis], *rest[axis:])
            return View(cut, shape, ((axis, index),), self.order, self.split or self.shape, self.invert)
        inner = self.shape or tuple(rest)
        before = math.prod(rest[:axis])
        place = next((i for i in range(len(inner) + 1) if math.prod(inner[:i]) == before), None)
        if place is None:
            raise ValueError(f"axis {axis} of {given} is merged in {inner}")
        shape = (*inner[:place], given[axis], *inner[place:])
        return View(cut, shape, ((place, index), *self.take), self.order, self.split, self.invert)

    @cached_property
    def plain(self) -> bool:
        """Whether the whole array is read."""
        return self.cut is None and not self.take

    @cached_property
    def fused(self) -> tuple[object, ...] | None:
        """What siblings in one fused array share: how it is split; None where the array is read whole."""
        if self.plain:
            return None
        return (self.shape, tuple(axis for axis, _ in self.take)) if self.take else ("cut", self.cut and self.cut[0])

    @cached_property
    def index(self) -> int:
        """The place among the siblings of a fused array."""
        return self.take[-1][1] if self.take else self.cut[1] if self.cut else 0

    @cached_property
    def moved(self) -> bool:
        """Whether axes change places."""
        return self.order is not None and list(self.order) != sorted(self.order)

    def said(self) -> str:
        """In words, for a table."""
        words = []
        if self.cut is not None:
            words.append(f"{self.cut[1]}:{self.cut[2]} of axis {self.cut[0]}")
        if self.take:
            shape = list(self.shape or ())
            words.append(", ".join(f"number {i} of axis {a}" for a, i in self.take) + (f" of {shape}" if shape else ""))
        if self.moved:
            words.append("transposed" if len(self.order or ()) == 2 else f"axes in the order {list(self.order or ())}")
        if self.invert:
            words.append("inverted")
        return ", ".join(words)


def _squeezed(shape: Shape) -> Shape:
    return tuple(n for n in shape if n != 1)


@lru_cache(maxsize=4096)
def layouts(given: Shape, wanted: Shape, heads: tuple[int, ...] = ()) -> tuple[View, ...]:
    """The views by which an array of the shape `given` may hold one of the shape `wanted`, the plainest first.

    `heads` are numbers of heads between which a fused axis may be interleaved.
    """
    size, whole = math.prod(wanted), math.prod(given)
    if not size or not whole or len(_squeezed(given)) > _MOST_AXES:
        return ()
    if size == whole:
        return tuple(orders(given, wanted))
    made: list[View] = []
    if whole % size == 0:
        for shape, take, rest in _parts(given, whole // size, heads):
            made += [View(None, shape, take, v.order, v.split or v.shape) for v in orders(rest, wanted)]
    if not made:
        made = _cuts(given, wanted)
    if not made and 1 < given[0] <= _MOST_LAYERS:
        made = [v.within(given, 0, layer) for layer in range(given[0]) for v in _cuts(given[1:], wanted)]
    return tuple(dict.fromkeys(made))


@lru_cache(maxsize=4096)
def orders(given: Shape, wanted: Shape) -> tuple[View, ...]:
    """The views of arrays of one size: axes of length 1 come and go, others change places, are merged or split."""
    if given == wanted:
        first = [View()]
    else:
        first = []
    kept, goal = _squeezed(given), _squeezed(wanted)
    if len(kept) > _MOST_AXES or len(goal) > _MOST_AXES:
        return tuple(first)
    shape = None if kept == given else kept
    made = []
    for order in permutations(range(len(kept))):
        straight = list(order) == sorted(order)
        if _merges(tuple(kept[axis] for axis in order), goal):
            made.append(View(None, shape, (), None if straight else order))
    if len(goal) > len(kept):
        for order in permutations(range(len(goal))):
            if _merges(tuple(goal[axis] for axis in order), kept) and list(order) != sorted(order):
                split = tuple(goal[axis] for axis in order)
                made.append(View(None, None, (), tuple(int(i) for i in np.argsort(order)), split))
        if _merges(goal, kept):
            made.insert(0, View())
    if first and made and made[0] == View(None, shape, (), None):
        made = made[1:]
    return tuple(dict.fromkeys([*first, *made]))


def _merges(shape: Shape, goal: Shape) -> bool:
    """Whether neighbouring axes of `shape` can be merged into `goal`."""
    left = list(shape)
    for size in goal:
        product = 1
        while product < size and left:
            product *= left.pop(0)
        if product != size:
            return False
    return not left


def _parts(
    given: Shape, ratio: int, heads: tuple[int, ...]
) -> Iterator[tuple[Shape, tuple[tuple[int, int], ...], Shape]]:
    """(shape, take, shape of the rest): one of `ratio` parts of equal size, from one axis, or from two."""
    yield from _axis_parts(given, ratio, heads)
    for axis, layers in enumerate(given[:1]):  # layers stacked, and in each several maps fused
        if 1 < layers < ratio and ratio % layers == 0:
            for shape, take, rest in _axis_parts(given[1:], ratio // layers, heads):
                for layer in range(layers):
                    yield (layers, *shape), ((axis, layer), *take), rest


def _axis_parts(
    given: Shape, ratio: int, heads: tuple[int, ...]
) -> Iterator[tuple[Shape, tuple[tuple[int, int], ...], Shape]]:
    for axis, length in enumerate(given):
        if length == ratio:
            rest = (*given[:axis], *given[axis + 1 :])
            for i in range(ratio):
                yield given, ((axis, i),), rest
        if ratio not in _FUSED or length % ratio or length == ratio:
            continue
        each = length // ratio
        before, after = given[:axis], given[axis + 1 :]
        for i in range(ratio):
            yield (*before, ratio, each, *after), ((axis, i),), (*before, each, *after)
        for number in heads:
            if each % number == 0 and 1 < number < each:
                shape = (*before, number, ratio, each // number, *after)
                for i in range(ratio):
                    yield shape, ((axis + 1, i),), (*before, number, each // number, *after)
        for i in range(ratio):
            yield (*before, each, ratio, *after), ((axis + 1, i),), (*before, each, *after)


def _cuts(given: Shape, wanted: Shape) -> list[View]:
    """Parts of unequal widths, one after the other along an axis: at its start, at its end, or after a like part."""
    made = []
    goal = _squeezed(wanted)
    for axis, length in enumerate(given):
        others = math.prod(given[:axis]) * math.prod(given[axis + 1 :])
        size = math.prod(wanted)
        if size % others or not 0 < (width := size // others) < length or width not in goal:
            continue
        rest = (*given[:axis], width, *given[axis + 1 :])
        starts = dict.fromkeys((0, width, length - width, length - 2 * width))
        for start in starts:
            if 0 <= start <= length - width and not (length % width == 0 and length // width in _FUSED):
                made += [
                    View((axis, start, start + width), None, (), v.order, v.split or v.shape)
                    for v in orders(rest, wanted)
                ]
    return made
