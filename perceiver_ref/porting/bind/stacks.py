"""Layers that a port keeps stacked: one array for each kind of parameter, with an axis for the layers, as a scan has.

Taken apart, such a port is like any other: its arrays are the layers', in the order of the layers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from .sources import Part, Source

_MOST_LAYERS = 256
_AXES = (0, 1)
"""Where the layers' axis may be: first, or after the inputs' as where a scan's is set so."""


@dataclass(frozen=True)
class Apart:
    """A port's arrays with the stacked ones taken apart; nothing of them is stacked where `origin` is empty."""

    arrays: Mapping[str, np.ndarray]
    origin: Mapping[str, tuple[str, int, int]]
    """Of a layer's array: the stacked array, the axis of the layers, and the number of this one."""

    def source(self, source: Source, arrays: Mapping[str, np.ndarray]) -> Source:
        """What a source of layers' arrays reads of the port's own."""
        if not set(source.names) & set(self.origin):
            return source
        parts = []
        for part in source.parts:
            if part.name in self.origin:
                name, axis, index = self.origin[part.name]
                part = Part(name, part.view.within(arrays[name].shape, axis, index), part.shape)
            parts.append(part)
        return replace(source, parts=tuple(parts))

    def gradients(self, gradients: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The port's gradients by the names of its arrays taken apart."""
        return _slices(gradients, self.origin)


def apart(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> list[Apart]:
    """Ways to take a port's arrays apart, that first of which most arrays are as large as parameters of ours.

    `shapes` are ours by path. As they are is always one of them.
    """
    lists = _lists(shapes)
    inside = {p: math.prod(shape) for p, shape in shapes.items() if any(p.startswith(f"{each}/") for each in lists)}
    layers, single = set(inside.values()), {math.prod(shape) for p, shape in shapes.items() if p not in inside}
    wanted = Counter(map(math.prod, shapes.values()))
    made = [Apart(arrays, {})]
    for axis, which in product(_AXES, ("all", "likely", "others")):
        origin: dict[str, tuple[str, int, int]] = {}
        for count in sorted(set(lists.values())):
            names = [n for n, a in arrays.items() if a.ndim > max(axis, 1) and a.shape[axis] == count]
            if which != "all":  # what is as large as a parameter of no list may be that
                sizes = {n: arrays[n].size for n in names}
                likely = layers if which == "likely" else set()
                names = [n for n in names if sizes[n] not in single or sizes[n] // count in likely]
            origin |= {f"{i}:{name}": (name, axis, i) for i, name in product(range(count), names)}
        if origin and not any(origin == other.origin for other in made):
            made.append(Apart(_slices(arrays, origin), origin))
    return sorted(made, key=lambda row: -sum((wanted & Counter(a.size for a in row.arrays.values())).values()))


def _lists(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Our lists of layers, by the part of a path before the number, and how long they are."""
    numbers: dict[str, set[str]] = {}
    for path in shapes:
        parts = path.split("/")
        for i, part in enumerate(parts):
            if part.isdigit():
                numbers.setdefault("/".join(parts[:i]), set()).add(part)
    return {prefix: len(found) for prefix, found in numbers.items() if 1 < len(found) <= _MOST_LAYERS}


def _slices(arrays: Mapping[str, np.ndarray], origin: Mapping[str, tuple[str, int, int]]) -> dict[str, np.ndarray]:
    """The layers' arrays at the place of the first stacked one, and the others."""
    stacked = {name for name, _, _ in origin.values()}
    made: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if name not in stacked:
            made[name] = array
            continue
        count = array.shape[next(axis for n, axis, _ in origin.values() if n == name)]
        for new, (own, axis, index) in origin.items():
            if new not in made and own in arrays and arrays[own].shape[axis] == count:
                made[new] = np.take(arrays[own], index, axis=axis)
    return made
