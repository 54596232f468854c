"""The errors that correct arithmetic of a dtype makes on a case, point by point: the envelope of rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..variation import varied
from ..vectors.compare import difference
from .rounding import DIGITS, arithmetic, rounded, rounded_tree
from .subject import Arrays, Subject

FACTOR = 4.0
"""Rounding errors may be this many times those of the runs that they are estimated from."""
LEAST = 1e-3
"""Where everything is rounded, no point is better than this part of its own envelope, unless nothing is computed."""


class Roundings:
    """Measured when first asked for: the reference in each dtype and in other orders of summation, against float64."""

    runs = 3

    def __init__(self, subject: Subject, ours: Arrays) -> None:
        self.subject, self.ours = subject, ours
        self.known: dict[str, dict[str, float]] = {}

    def at(self, dtype: str) -> dict[str, float]:
        """By compared array: the largest error of a few runs in `dtype`, times `FACTOR`."""
        if dtype not in self.known:
            largest = dict.fromkeys(self.ours, 0.0)
            digits = 24 if dtype == "tf32" else DIGITS[dtype]
            params = rounded_tree(self.subject.params, digits)
            inputs = rounded_tree(self.subject.inputs, digits)

            def grid(original: Any, *arguments: Any, **options: Any) -> Any:
                return rounded(original(*arguments, **options), digits)

            for seed in range(self.runs):
                rng = np.random.default_rng(seed) if seed else None
                with arithmetic(dtype, rng), varied({"linear_positions": grid}):
                    made = self.subject.compute(params, inputs)
                for name, array in made.items():
                    largest[name] = max(largest[name], difference(array, self.ours[name]))
            self.known[dtype] = {name: FACTOR * e for name, e in largest.items()}
        return self.known[dtype]

    def of(self, name: str) -> dict[str, float]:
        """What has been measured for one array."""
        return {dtype: limits.get(name, 0.0) for dtype, limits in self.known.items()}

    def outputs(self) -> dict[str, float]:
        """By dtype, the largest among outputs; of float32 at least."""
        self.at("float32")
        return {
            dtype: max((e for name, e in limits.items() if name.startswith("output/")), default=0.0)
            for dtype, limits in self.known.items()
        }

    def holds(self, dtype: str, errors: Mapping[str, float]) -> bool:
        """Whether every error is within that of `dtype`, and none is too small for it."""
        limits = self.at(dtype)
        if not all(e <= limits.get(name, 0.0) for name, e in errors.items()):
            return False
        return all(e >= LEAST * limits[name] / FACTOR for name, e in errors.items() if name.startswith("trace/"))
