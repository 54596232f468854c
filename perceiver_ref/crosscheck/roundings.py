"""The errors that correct arithmetic of a dtype makes on a case, point by point: the envelope of rounding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..autograd import tree
from ..variation import varied
from ..vectors.compare import difference
from .rounding import arithmetic, exempt, lowered
from .subject import Arrays, Subject

RUNS = 6
"""Two in the plain order, and four of perturbed sums: the largest of so many is seldom far below what is typical."""
FACTOR = 4.0
"""Rounding errors may be this many times the largest of the runs. Of 1,000 correct models run by PyTorch hardly one has
1.5 times as much (tests/heavy/test_envelope.py); the rest is for libraries whose functions are less accurate."""
LEAST = 0.15
"""Arithmetic of a dtype has at each point at least this part of the typical error of the runs. Correct models have a
fifth and more; the next finer format has an eighth (float16 beside bfloat16) or far less."""


class Roundings:
    """Measured when first asked for: the reference in each dtype and in other orders of summation, against float64."""

    def __init__(self, subject: Subject, ours: Arrays) -> None:
        self.subject, self.ours = subject, ours
        self.known: dict[str, dict[str, float]] = {}
        self.least: dict[str, dict[str, float]] = {}
        """As `known`: the smallest that the runs have of the typical element's error."""

    def at(self, dtype: str) -> dict[str, float]:
        """By compared array: the largest error of a few runs in `dtype`, times `FACTOR`."""
        if dtype not in self.known:
            largest, least = dict.fromkeys(self.ours, 0.0), dict.fromkeys(self.ours, np.inf)
            for made in self._runs(dtype):
                for name, array in made.items():
                    error = difference(array, self.ours[name])
                    if np.isfinite(error):  # overflow is no rounding
                        largest[name] = max(largest[name], error)
                        least[name] = min(least[name], _typical(array, self.ours[name]))
            self.known[dtype] = {name: FACTOR * e for name, e in largest.items()}
            self.least[dtype] = {name: e if np.isfinite(e) else 0.0 for name, e in least.items()}
        return self.known[dtype]

    def _runs(self, dtype: str) -> Iterator[Arrays]:
        """What the reference gives with everything in `dtype`: ops fused and in steps in turn, each as it is and then
        in other orders of summation."""

        def narrow(value: Any) -> Any:
            return lowered(value, dtype)

        params, inputs = tree.map(narrow, self.subject.params), tree.map(narrow, self.subject.inputs)
        for seed in range(RUNS):
            rng = np.random.default_rng(seed) if seed > 1 else None
            steps = seed % 2 == 1
            wide = dtype in ("float16", "bfloat16") and not steps
            with arithmetic(dtype, rng, steps=steps), _positions(dtype, rng, wide=wide):
                yield self.subject.compute(params, inputs)

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
        """Whether every error is within that of `dtype`, and none is too small for it: those are of a finer format.

        What is too small is told by the typical element, so that one large error does not hide the others.
        """
        limits = self.at(dtype)
        if not all(e <= limits.get(name, 0.0) for name, e in errors.items()):
            return False
        least, theirs = self.least[dtype], self.subject.expected
        return all(_typical(self.ours[name], theirs[name]) >= LEAST * least[name] for name in errors)


def _typical(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The error of a typical element in the units of `difference`: the mean of square roots, which outliers hardly
    move, squared."""
    finite = np.isfinite(ours) & np.isfinite(theirs)
    if not finite.any():
        return 0.0
    a, b = ours[finite].astype(np.float64), theirs[finite].astype(np.float64)
    return float(np.sqrt(np.abs(a - b)).mean() ** 2) / max(float(np.abs(b).max()), 1.0)


@contextmanager
def _positions(dtype: str, rng: np.random.Generator | None, *, wide: bool) -> Iterator[None]:
    """Grids and frequencies, which libraries round differently, in `dtype`; with `wide` what is made of them is
    computed in float32, as transformers and DeepMind do in models of every dtype."""

    def grid(original: Any, *arguments: Any, **options: Any) -> Any:
        return lowered(original(*arguments, **options), "float32" if wide else dtype, rng)

    def features(original: Any, *arguments: Any, **options: Any) -> Any:
        if not wide:
            return original(*arguments, **options)
        with exempt():
            return lowered(original(*arguments, **options), dtype)

    with varied({"linear_positions": grid, "frequencies": grid, "fourier_features": features}):
        yield
