"""Where two arrays differ: a part of an axis, heads, masked positions, one side of a diagonal.

A row of `PLACES` is one kind of place. A place is named where the rest agrees, and noise would hardly look like it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from .cases.compare import distances

SAMPLED = 1 << 15
"""Of larger arrays so many elements are looked at first."""
CHANCE = 1e-5
"""A place is named where noise of one size throughout would look like it with less than this chance."""
FITS = 0.05
"""What was done to the values is named where it leaves at most this part of the largest difference."""
FEW = 8
"""Fewer values must be fitted to 1e-4, and two to 1e-6: there are not many to be fitted by chance. One is nothing."""
_FEW_LISTED = 4
_ORDINALS = {2: "second", 3: "third"}

Box = tuple[np.ndarray, ...]
"""Indices along each axis, as `np.ix_` takes them."""


@dataclass(frozen=True)
class Difference:
    """Two arrays of one shape, in float64: a under test, b the reference; `limit` is what |a - b| may be.

    heads: how many there are, where the arrays are of attention; masks: where arrays of the model's inputs are real, by
    name, bool.
    """

    a: np.ndarray
    b: np.ndarray
    limit: float
    heads: int | None = None
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    axes: tuple[int, ...] | None = None
    """Those along which nothing was cut off; None: all"""

    def sample(self) -> Difference:
        """Some of the elements, in a row: what is not done to them is not done to all."""
        step = -(-self.a.size // SAMPLED)
        return replace(self, a=self.a.reshape(-1)[::step], b=self.b.reshape(-1)[::step], axes=None)

    def corner(self, whole: int | None = None) -> Difference:
        """The same of the first indices of every axis, equally many, but for a `whole` one."""
        others = self.a.ndim - (whole is not None)
        most = max(2, int((SAMPLED // (1 if whole is None else self.a.shape[whole])) ** (1 / max(others, 1))))
        here = tuple(slice(None) if axis == whole else slice(most) for axis in range(self.a.ndim))
        return replace(self, a=self.a[here], b=self.b[here])

    def within(self, box: Box) -> Difference:
        """The same of a part."""
        here, shape = np.ix_(*box), self.b.shape
        whole = tuple(axis for axis, indices in enumerate(box) if len(indices) == shape[axis])
        return replace(self, a=self.a[here], b=self.b[here], axes=whole)

    @cached_property
    def apart(self) -> np.ndarray:
        """|a - b|, inf where one alone is not finite."""
        return distances(self.b, self.a)

    @property
    def has_axis_of_heads(self) -> bool:
        """Whether heads have an axis of their own: weights (B, H, N, M), or what is split into heads already."""
        return self.b.ndim >= 4 and self.b.shape[-3] == self.heads

    @cached_property
    def beyond(self) -> np.ndarray:
        """Where they differ by more than the limit."""
        made: np.ndarray = self.apart > self.limit
        return made

    @cached_property
    def largest(self) -> float:
        """The largest difference."""
        return float(self.apart.max(initial=0.0))

    @cached_property
    def carriers(self) -> float:
        """How many elements carry the difference: n for n equal ones, about 1 where one is far above the rest."""
        square = np.square(self.apart / self.largest)
        return float(square.sum() ** 2 / np.square(square).sum())

    def fitted(self, made: np.ndarray) -> bool:
        """Whether a is this, but for a small part of the difference; hardly anything is told by few numbers."""
        if not 0 < self.largest < np.inf or (self.apart > 0.01 * self.largest).sum() < 2:
            return False
        part = FITS if self.carriers >= FEW else 1e-4 if self.carriers >= 3 else 1e-6
        return float(distances(made, self.a).max(initial=0.0)) <= part * self.largest

    def fills(self, inside: np.ndarray) -> bool:
        """Whether half of what is inside differs, or so much that it would not all be there if it were scattered."""
        wrong, most = int(self.beyond.sum()), int(inside.sum())
        chance = (most / inside.size) ** wrong * inside.size**2
        return 2 * wrong >= most or chance < CHANCE

    def by_chance(self, inside: np.ndarray) -> bool:
        """Whether noise throughout could look as if all that differs were inside: what is outside is then hardly
        smaller than what is inside, or there is too little of it. Where both are 0 there is no evidence.

        Of noise in proportion to the values, a share of about the root of r is below r times the median.
        """
        outside = self.apart[~inside & ((self.b != 0) | (self.a != 0))]
        typical = float(np.median(self.apart[inside & self.beyond]))
        ratio = float(outside.max(initial=0.0)) / typical if 0 < typical < np.inf else 0.0
        return bool(min(4 * np.sqrt(max(ratio, 1e-12)), 1.0) ** outside.size > CHANCE)


def _element(given: Difference) -> tuple[str, Box] | None:
    """One element alone."""
    if given.beyond.sum() != 1 or given.b.size < 2 or given.by_chance(given.beyond):
        return None
    place = [int(i) for i in np.argwhere(given.beyond)[0]]
    return f"one element only, at {place}", tuple(np.array([i]) for i in place)


def _masked(given: Difference) -> tuple[str, None] | None:
    """Where a mask of the inputs says that nothing real is: positions (B, M) along the first axis and another."""
    for name, mask in given.masks.items():
        if mask.ndim != 2 or given.b.ndim < 2 or len(mask) not in (1, len(given.b)) or mask.all():
            continue
        axes = [axis for axis in range(given.b.ndim - 1, 0, -1) if given.b.shape[axis] == mask.shape[1]]
        for axis in axes:
            shape = [1] * given.b.ndim
            shape[0], shape[axis] = mask.shape
            inside = np.broadcast_to(~mask.reshape(shape), given.b.shape)
            if not (given.beyond & ~inside).any() and not given.by_chance(inside):
                return f"only the masked positions (by {name})", None
    return None


def _along_axes(given: Difference) -> tuple[str, Box] | None:
    """A part of one axis or of several: items, rows, columns, heads."""
    shape, said = given.b.shape, []
    box = [np.arange(n) for n in shape]
    for axis in reversed(range(given.b.ndim)):
        there = np.flatnonzero(given.beyond.any(tuple(i for i in range(given.b.ndim) if i != axis)))
        heads = _heads(given, axis, there)
        if heads is not None:
            words, there = heads
        else:
            words, there = _indices(axis, given.b.ndim, there, shape[axis])
        inside = np.zeros(shape, bool)
        inside[(slice(None),) * axis + (there,)] = True
        if len(there) < shape[axis] and not given.by_chance(inside):
            box[axis] = there
            said.append(words)
    inside = np.zeros(shape, bool)
    inside[np.ix_(*box)] = True
    return (" and ".join(said), tuple(box)) if said and given.fills(inside) else None


def _heads(given: Difference, axis: int, there: np.ndarray) -> tuple[str, np.ndarray] | None:
    """Whole heads along the axis of heads, or along channels, which heads share: in words, and their indices."""
    n, heads = given.b.shape[axis], given.heads
    if heads is None or heads < 2:
        return None
    if axis == given.b.ndim - 3 and given.has_axis_of_heads:
        width = 1
    elif axis == given.b.ndim - 1 and n % heads == 0 and n > heads and not given.has_axis_of_heads:
        width = n // heads
    else:
        return None
    chosen = np.unique(there // width)
    if len(chosen) == heads or len(chosen) * width > 2 * len(there):
        return None
    return _listed("head", chosen, heads), (chosen[:, None] * width + np.arange(width)).reshape(-1)


def _indices(axis: int, ndim: int, there: np.ndarray, n: int) -> tuple[str, np.ndarray]:
    """Indices of an axis in words; more than a few without a rule become the range that holds them."""
    word, first, last = axis_word(axis, ndim), int(there[0]), int(there[-1])
    if len(there) == 1 and axis < ndim - 2:
        return f"rows of {word} {first} only ({n} {word}s)", there
    if len(there) == 1 and first in (0, n - 1) and n > 1:
        return f"the {'first' if first == 0 else 'last'} {word} only ({first} of {n})", there
    steps = np.unique(np.diff(there))
    if len(there) > _FEW_LISTED and len(steps) == 1 and steps[0] > 1:
        return f"every {_ORDINALS.get(int(steps[0]), f'{steps[0]}th')} {word} only, {first} to {last} of {n}", there
    if len(there) > _FEW_LISTED or len(steps) == 1:
        there = np.arange(first, last + 1)
    return _listed(word, there, n), there


def _listed(word: str, there: np.ndarray, n: int) -> str:
    if len(there) == 1:
        return f"{word} {there[0]} of {n} only"
    if len(there) == there[-1] - there[0] + 1:
        return f"{word}s {there[0]} to {there[-1]} of {n} only"
    return f"{word}s {', '.join(map(str, there[:-1]))} and {there[-1]} of {n} only"


def axis_word(axis: int, ndim: int) -> str:
    """What an index of an axis is called: columns are the last axis, rows the one before, items the first of more."""
    if ndim == 1:
        return "element"
    if axis == ndim - 1:
        return "column"
    if axis == ndim - 2:
        return "row"
    return "item" if axis == 0 else f"index of axis {axis}"


def _triangle(given: Difference) -> tuple[str, None] | None:
    """One side of the diagonal of the two last axes: a causal mask."""
    if given.b.ndim < 2 or min(given.b.shape[-2:]) < 3:
        return None
    rows, columns = (np.arange(n) for n in given.b.shape[-2:])
    rows = rows[:, None]
    sides = {
        "on the diagonal only": rows == columns,
        "above the diagonal only": columns > rows,
        "below the diagonal only": columns < rows,
    }
    for said, inside in sides.items():
        whole = np.broadcast_to(inside, given.b.shape)
        if (
            not (given.beyond & ~whole).any()
            and not given.by_chance(whole)
            and 4 * given.beyond.sum() >= 3 * whole.sum()
        ):
            return f"{said} (of the last two axes)", None
    return None


PLACES: dict[str, Callable[[Difference], tuple[str, Box | None] | None]] = {
    "element": _element,
    "masked-positions": _masked,
    "triangle": _triangle,
    "range": _along_axes,
}
"""Name -> a function that gives the place in words and a box that holds it, or None."""


def place_of(given: Difference) -> tuple[str, str, Box | None] | None:
    """(row, words, box): where the difference is, and the box that holds it all, if it is one. None where it is
    everywhere, or where noise could look like that."""
    if given.beyond.all():
        return None
    for name, row in PLACES.items():
        made = row(given)
        if made is not None:
            return name, *made
    return None
