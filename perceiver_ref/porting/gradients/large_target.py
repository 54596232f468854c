"""The gradients of a large case beside the reference's, compared in one walk back that keeps few of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..cases.compare import GRADIENT_NOISE, gradient_tolerance, largest_of
from ..subject import Subject
from ..tolerances import tolerances
from .graph import Graph
from .target import Target
from .walking import Walks

KEPT = 256 << 20
"""Bytes of wrong gradients that are kept: those that a walk comes to first"""
BLOCK = 1 << 18
"""Elements that are compared at a time"""


class Apart(NamedTuple):
    """Of a gradient under test and ours: the largest difference and numbers, and the sums of products."""

    error: float
    largest: float
    theirs: float
    square: float
    own: float
    both: float

    @property
    def factor(self) -> float:
        """What ours is to be multiplied by for the least difference."""
        return self.both / self.own if self.own else 1.0

    @property
    def unlike(self) -> float:
        """The square of what that leaves."""
        return max(self.square - self.own * (self.factor - 1) ** 2, 0.0)


def apart(ours: np.ndarray, theirs: np.ndarray) -> Apart:
    """Compare two arrays, part by part."""
    if ours.shape != theirs.shape:
        return Apart(np.inf, 0.0, 0.0, np.inf, 0.0, 0.0)
    error = top = other = square = own = both = 0.0
    for a, b in _parts(ours, theirs):
        d = a - b
        error = max(error, float(np.abs(d).max(initial=0.0)))
        top, other = max(top, float(np.abs(a).max(initial=0.0))), max(other, float(np.abs(b).max(initial=0.0)))
        flat, mine = d.reshape(-1), a.reshape(-1)
        square += float(flat.dot(flat))
        own += float(mine.dot(mine))
        both += float(mine.dot(mine)) - float(mine.dot(flat))
    if not np.isfinite(square):
        error = np.inf
    return Apart(error / max(top, 1.0), top, other, square, own, both)


def _parts(ours: np.ndarray, theirs: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rows = max(BLOCK // max(ours[0].size, 1), 1) if ours.ndim and len(ours) else 1
    for i in range(0, len(ours) if ours.ndim else 1, rows):
        part = np.s_[i : i + rows] if ours.ndim else ...
        yield ours[part].astype(np.float64), theirs[part].astype(np.float64)


class LargeTarget(Target):
    """As `Target`, compared while the walk goes: `known` has of each leaf and name how far apart they are, and `kept`
    the gradients of some wrong leaves."""

    def __init__(self, subject: Subject, graph: Graph) -> None:
        self._begin(subject, graph, dict)
        self.walks = Walks(graph)
        self.named = {}
        self.known: dict[tuple[str, str], Apart] = {}
        self.kept: dict[str, Any] = {}
        self.views = {(b.path, name): b.view for name, own in self.bindings.items() for b in own}
        self.tied = self._tied()
        self._sums: dict[str, tuple[np.ndarray, set[str]]] = {}
        scale = largest_of(self.expected, subject.case.cotangents)
        usual, dtype = tolerances(subject.case)["gradient"], subject.case.meta["dtype"]

        def limit(found: Apart) -> float:
            return gradient_tolerance(usual, dtype, np.array([found.largest]), np.array([found.theirs]), scale)

        self.limit = limit
        self.idle = GRADIENT_NOISE[dtype] * scale
        """What a gradient may be that is zero but for rounding, as those of keys' biases are"""
        self.wrong, self.right, self.affected = [], 0, []
        self.errors_of: dict[str, float] = {}
        self.limits: dict[str, float] = {}
        self.walks.walk(self._compared, noted=True)
        for name in self.expected:
            if name not in self.errors_of:
                self._missing(name)
        for bits in self.wrong:
            self.right &= ~bits
        self.affected.sort(key=list(self.expected).index)

    def pieces(self, path: str, gradient: Any) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """(name, ours, theirs) of a leaf; of what several leaves add up to, once all have come."""
        for name in self.names.get(path, ()):
            if name not in self.tied:
                view = self.views.get((path, name))
                yield name, gradient, self.expected[name] if view is None else view(self.expected[name])
                continue
            total, missing = self._sums.pop(name, None) or (
                np.zeros(self.expected[name].shape, gradient.dtype),
                {b.path for b in self.bindings[name]},
            )
            self.views[path, name](total)[...] += gradient
            missing.discard(path)
            if missing:
                self._sums[name] = (total, missing)
            else:
                yield name, total, self.expected[name]

    def _compared(self, path: str, gradient: Any) -> bool:
        for name, ours, theirs in self.pieces(path, gradient):
            found = apart(ours, theirs)
            self.known[path, name] = found
            limit = self.limits[name] = max(self.limit(found), self.limits.get(name, 0.0))
            self.errors_of[name] = max(found.error, self.errors_of.get(name, 0.0))
            if max(found.largest, found.theirs) <= self.idle:
                continue
            bits = self.tied.get(name, 0) | self.graph.leaves.get(path, 0)
            if found.error > limit:
                self.wrong.append(bits)
                if name not in self.affected:
                    self.affected.append(name)
                self._keep(path, gradient)
            elif found.largest > 0:
                self.right |= bits
        return False

    def _keep(self, path: str, gradient: Any) -> None:
        self.kept[path] = gradient
        order = sorted(self.kept, key=lambda p: self.walks.last[p])
        while sum(self.kept[p].nbytes for p in order) > KEPT and len(order) > 1:
            self.kept.pop(order.pop(0))

    def _missing(self, name: str) -> None:
        """A gradient of what the outputs do not depend on."""
        largest_number = float(np.abs(self.expected[name]).max(initial=0.0))
        self.errors_of[name], self.limits[name] = largest_number, tolerances(self.subject.case)["gradient"]
        if largest_number > self.limits[name]:
            self.wrong.append(self.graph.leaves.get(name.removeprefix("grad_"), 0))
            self.affected.append(name)

    def errors(self, made: Mapping[str, np.ndarray] | None = None) -> dict[str, float]:
        """By the peer's names, the error of every gradient."""
        return dict(self.errors_of)

    def some(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """(name, ours, theirs) of those wrong gradients of which ours are kept whole, as the peer has them."""
        for name, own in self.bindings.items():
            if len(own) == 1 and own[0].path in self.kept and name in self.affected:
                ours = np.empty(self.expected[name].shape, self.kept[own[0].path].dtype)
                own[0].view(ours)[...] = self.kept[own[0].path]
                yield name, ours, self.expected[name]
        for path, names in self.names.items():
            if path.startswith("input/") and path in self.kept and names[0] in self.affected:
                yield names[0], self.kept[path], self.expected[names[0]]

    @property
    def is_right(self) -> bool:
        """Whether no error is beyond what `check` allows."""
        return not self.affected
