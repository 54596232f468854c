"""How well a run with deviations repeats the arrays under test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..cases.compare import difference
from ..rounding.grid import on_grid
from ..subject import Arrays, Subject


@dataclass(frozen=True)
class Fit:
    """`ours` are the reference's arrays, `noise` the rounding that each may have, by its name (none: float64's)."""

    subject: Subject
    ours: Arrays
    noise: Mapping[str, float]

    def remaining(self, made: Arrays) -> float:
        """The part of the difference in the outputs that is left, 0 to about 1."""
        left = total = 0.0
        for name, expected in self._outputs().items():
            if name not in made or made[name].shape != expected.shape or not np.isfinite(made[name]).all():
                return float("inf")
            scale = max(largest(expected), 1.0)
            left += float((np.square((made[name] - expected) / scale)).sum())
            total += float((np.square((self.ours[name] - expected) / scale)).sum())
        return float(np.sqrt(left / total)) if total else 0.0

    def size(self, made: Arrays) -> float:
        """The largest error of the outputs, in parts of their largest number."""
        return max(
            difference(made[n], theirs) * max(largest(theirs), 1.0) / largest(theirs) if n in made else float("inf")
            for n, theirs in self._outputs().items()
        )

    def alike(self, made: Arrays, without: Arrays, digits: int, name: str | None = None) -> float:
        """Of an array's numbers, or all outputs', that `without` misses: the part that comes out exactly.

        Numbers that have but so few digits do not count: they come out by chance.
        """
        same = total = 0
        for each, theirs in self.subject.expected.items() if name else self._outputs().items():
            if (name and each != name) or each not in made or each not in without:
                continue
            if not made[each].shape == without[each].shape == theirs.shape or on_grid(theirs, digits):
                continue
            error = np.abs(without[each] - theirs)
            off = error > 1e-2 * error.max(initial=0.0)
            total += int(off.sum())
            same += int((np.abs(made[each] - theirs)[off] <= 1e-5 * error.max(initial=0.0)).sum())
        return same / total if total else 0.0

    def flat(self, arrays: Arrays) -> np.ndarray:
        """All outputs in one row, in units of the largest numbers of those under test."""
        parts = []
        for name, expected in self._outputs().items():
            parts.append(np.asarray(arrays[name], np.float64).reshape(-1) / max(largest(expected), 1.0))
        return np.concatenate(parts)

    def gate(self, point: str | None, errors: Mapping[str, float], part: float = 0.1) -> dict[str, float] | None:
        """Limits of the errors at traced points: this one comes right but for a part, and those before it stay so."""
        if point is None or not point.startswith("trace/"):
            return None
        names = list(errors)
        limits = {n: max(1e-9, self.noise.get(n, 0.0), errors[n]) for n in names[: names.index(point)]}
        return limits | {point: max(part * errors[point], self.noise.get(point, 0.0))}

    def _outputs(self) -> Arrays:
        return {name: array for name, array in self.subject.expected.items() if name.startswith("output/")}


def largest(array: np.ndarray) -> float:
    """The largest magnitude, above zero."""
    return max(float(np.abs(array).max(initial=0.0)), 1e-300)
