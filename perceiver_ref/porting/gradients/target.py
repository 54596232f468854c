"""The gradients of a case beside the reference's: what is wrong, and what of the difference a guess leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from typing import Any

import numpy as np

from ...autograd.backend import to_host
from ...peers.names import Binding
from ..cases import Case
from ..cases.compare import difference
from ..subject import Subject
from .graph import Graph, Pull

_NOISY = 10.0
"""A gradient of the case is taken for its own unit from so many times its rounding: the digit that is left is right."""
_IDLE = 1e-9
"""Gradients below this part of the largest are zero but for rounding, such as those of keys' biases."""
_SMALLEST = 1e-6
"""A factor on all is taken for no less, so that what is zero but for float64's rounding stays below its limit."""


def gradients_of(case: Case) -> dict[str, np.ndarray]:
    """The case's gradients by "grad_param/<name>" and "grad_input/<name>", each tied parameter once."""
    aliases = case.meta.get("tied", {})
    made = {f"grad_param/{aliases.get(name, name)}": array for name, array in case.grad_params.items()}
    return {**made, **{f"grad_input/{name}": array for name, array in case.grad_inputs.items()}}


class Target:
    """`theirs` are the case's gradients by entry; an entry is a leaf of the graph, or what several leaves add up to.

    `back` takes gradients by leaf of the graph, where parameters were changed, to those of the parameters themselves.
    """

    def __init__(self, subject: Subject, graph: Graph, back: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._begin(subject, graph, back)
        walked = graph.walk()
        self.base = {path: to_host(walked[path]) for path in graph.leaves}
        self.named = self.by_name(self.base)

    def _begin(self, subject: Subject, graph: Graph, back: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """What is to be compared, by which names."""
        self.subject, self.graph, self.back = subject, graph, back
        self.finish: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {}
        """By name, what is done to gradients when they are finished"""
        self.expected = gradients_of(subject.case)
        self.bindings: dict[str, list[Binding]] = {}
        self.names: dict[str, list[str]] = {f"input/{n}": [f"grad_input/{n}"] for n in subject.case.grad_inputs}
        for b in subject.rebuilt.bindings:
            if f"grad_param/{b.name}" in self.expected:
                self.bindings.setdefault(f"grad_param/{b.name}", []).append(b)
                self.names.setdefault(b.path, []).append(f"grad_param/{b.name}")

    def under(
        self,
        changes: Mapping[int, Pull],
        finish: Mapping[str, Callable[[np.ndarray], np.ndarray]] | None = None,
        *,
        after: bool = False,
    ) -> Target:
        """The same gradients beside those of a backward pass with these steps changed, or finished so."""
        made = copy(self)
        made.finish = self.finish if finish is None else finish
        if changes:
            again = self.graph.again(changes)
            made.base = {**self.base, **{path: to_host(gradient) for path, gradient in again.items()}}
            made.graph = self.graph.under(changes, after=after)
        made.named = made.by_name(made.base)
        made.compare(self.limits, self.noise)
        return made

    def by_name(self, leaves: Mapping[str, Any], only: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """Gradients by leaf, on any backend -> by the peer's names (only these), as `expected` is, on the host."""
        leaves = self.back({path: to_host(gradient) for path, gradient in leaves.items()})
        made: dict[str, np.ndarray] = {}
        for name in self.expected if only is None else only:
            if name.startswith("grad_input/"):
                made[name] = leaves.get(f"input/{name.removeprefix('grad_input/')}", np.zeros(0))
                continue
            for b in self.bindings.get(name, ()):
                if name not in made:
                    made[name] = np.zeros(self.subject.arrays[b.name].shape)
                part = b.view(made[name])
                part[...] += leaves[b.path]
        return {name: self.finish[name](array) if name in self.finish else array for name, array in made.items()}

    def is_within(self, name: str, made: np.ndarray) -> bool:
        """Whether a gradient is no more wrong than its limit."""
        return difference(self.expected[name], made, self.named[name]) <= self.limits[name]

    def shrinking(self) -> float:
        """The least factor, below 1, that all gradients may have been multiplied by, and their rounding with them."""
        sizes = {name: float(np.abs(array).max(initial=0.0)) for name, array in self.named.items()}
        idle = _IDLE * max(sizes.values(), default=0.0)
        parts = [float(np.abs(self.expected[n]).max(initial=0.0)) / size for n, size in sizes.items() if size > idle]
        return min(max(_SMALLEST, *parts), 1.0) if parts and np.isfinite(parts).all() else 1.0

    def paths(self, name: str) -> list[str]:
        """The leaves that a gradient adds up."""
        if self.back is not dict:
            return list(self.graph.leaves)
        if name.startswith("grad_input/"):
            return [f"input/{name.removeprefix('grad_input/')}"]
        return [b.path for b in self.bindings.get(name, ())]

    def changed(self, leaves: Mapping[str, Any], only: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """By the peer's names, the gradients that these leaves' make different (of these names)."""
        if self.back is not dict:
            return self.by_name({**self.base, **leaves}, only)
        names = dict.fromkeys(name for path in leaves for name in self.names.get(path, ()))
        if only is not None:
            names = {name: None for name in only if name in names}
        return self.by_name({**self.base, **leaves}, names)

    def errors(self, made: Mapping[str, np.ndarray] | None = None) -> dict[str, float]:
        """By the peer's names, the error of every gradient; of the right ones where `made` has none."""
        made = {**self.named, **(made or {})}
        return {
            name: difference(wanted, made[name], self.named.get(name)) if name in made else float("inf")
            for name, wanted in self.expected.items()
        }

    def compare(self, limits: Mapping[str, float], noise: Mapping[str, float] | None = None) -> None:
        """Find out which gradients are wrong: those off by more than the limit of their names.

        `noise` is what rounding makes of each: a gradient that is no larger is zero, as those of keys' biases are, and
        only what is beyond it counts there.
        """
        self.limits, self.noise = limits, noise or {}
        views = {(b.path, name): b.view for name, own in self.bindings.items() for b in own}
        largest = max((float(np.abs(a).max(initial=0.0)) for a in self.named.values()), default=0.0)
        self.scales = {
            name: max(
                float(np.abs(a).max(initial=0.0)),
                float(np.abs(self.named[name]).max(initial=0.0)),
                _IDLE * largest,
                1e-300,
            )
            for name, a in self.expected.items()
        }
        self.zeros = {
            name: n for name, n in (noise or {}).items() if n >= float(np.abs(self.named[name]).max(initial=0.0))
        }
        """Those that are zero but for so much rounding"""
        self.scales |= {name: max(self.scales[name], n) for name, n in self.zeros.items()}
        self.wrong: list[int] = []
        """The leaves, as bits, of each wrong piece"""
        self.right = 0
        self.affected: list[str] = []
        pieces: dict[tuple[str, bytes], int] = {}
        for path, names in self.names.items():
            for name in names:
                view = views.get((path, name), _same)
                wanted, ours = view(self.expected[name]), view(self.named[name])
                if difference(wanted, ours) > limits[name]:
                    key = (name, np.asarray(ours).tobytes() if len(names) > 1 else path.encode())
                    pieces[key] = pieces.get(key, 0) | self.graph.leaves.get(path, 0)
                    if name not in self.affected:
                        self.affected.append(name)
                elif np.abs(ours).max(initial=0.0) > _IDLE * largest:
                    self.right |= self.graph.leaves.get(path, 0)
        tied = self._tied()
        for (name, _), bits in pieces.items():
            self.wrong.append(bits | tied.get(name, 0))
        for bits in self.wrong:
            self.right &= ~bits
        self.affected.sort(key=list(self.expected).index)
        self.units = self._units()
        self.squares = {name: self._square(name, self.named.get(name)) for name in self.expected}
        self.total = sum(min(square, self._whole(name)) for name, square in self.squares.items())

    def _tied(self) -> dict[str, int]:
        """The leaves of the peer's arrays that are fewer than our leaves of them: the leaves add up there."""
        sizes: dict[str, int] = {}
        bits: dict[str, int] = {}
        for b in self.subject.rebuilt.bindings:
            name = f"grad_param/{b.name}"
            sizes[name] = sizes.get(name, 0) + int(np.prod(b.shape))
            bits[name] = bits.get(name, 0) | self.graph.leaves.get(b.path, 0)
        return {n: bits[n] for n, size in sizes.items() if n in self.expected and size > self.expected[n].size}

    def _units(self) -> dict[str, float]:
        """By name, the size of the case's gradient; where that is zero or little more than rounding, which gradients
        that are stopped are, ours."""
        sizes = {name: float(np.abs(a).max(initial=0.0)) for name, a in self.expected.items()}
        idle = _IDLE * max(sizes.values(), default=0.0)
        least = {name: max(idle, _NOISY * self.noise.get(name, 0.0)) for name in sizes}
        return {
            name: size if size > least[name] and name not in self.zeros else self.scales[name]
            for name, size in sizes.items()
        }

    def _whole(self, name: str) -> float:
        """Where a factor makes gradients small, what is left is a part of them, not of the large difference."""
        whole = float(np.square(self.expected[name] / self.units[name]).sum())
        return whole if whole >= 1.0 else float("inf")

    def _square(self, name: str, made: Any) -> float:
        wanted = self.expected[name]
        if made is None or made.shape != wanted.shape:
            return float("inf")
        apart = np.abs(made - wanted)
        if name in self.zeros:
            apart = np.maximum(apart - self.zeros[name], 0.0)
        total = float(np.square(apart / self.units[name]).sum())
        return total if np.isfinite(total) else float("inf")

    def left(self, made: Mapping[str, np.ndarray]) -> float:
        """The part of the difference that is left with these gradients in place of the right ones, by name.

        Of the case's gradients where they are smaller than the difference: a factor on all hides nothing beside it.
        """
        other = sum(square for name, square in self.squares.items() if name not in made)
        total = other + sum(self._square(name, array) for name, array in made.items())
        return float(np.sqrt(total / self.total)) if self.total and np.isfinite(self.total) else float("inf")

    def factor(self, stopped: Mapping[str, np.ndarray]) -> float:
        """What to multiply a contribution by for the least difference; `stopped` are gradients without it, by name."""
        above = below = 0.0
        for name, without in stopped.items():
            own = (self.named[name] - without) / self.scales[name]
            above += float((own * (self.expected[name] - without) / self.scales[name]).sum())
            below += float(np.square(own).sum())
        return above / below if below else 1.0

    @property
    def relative(self) -> float:
        """The whole difference in units of the gradients' largest values, on average."""
        size = sum(array.size for array in self.expected.values())
        return float(np.sqrt(sum(self.squares.values()) / max(size, 1)))

    def covers(self, upstream: int) -> bool:
        """Whether every wrong gradient is upstream."""
        return all(upstream & bits for bits in self.wrong)

    def strictly(self, upstream: int) -> bool:
        """Whether nothing else is."""
        return not upstream & self.right


def _same(array: Any) -> Any:
    return array


def largest(errors: Iterable[float]) -> float:
    """The largest of some errors."""
    return max(errors, default=0.0)
