"""The errors that correct arithmetic of a dtype makes on a case, point by point: the envelope of rounding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...autograd import tree
from ...host.progress import steps as stepping
from ..cases.compare import difference
from ..deviations import Candidate, deviating
from ..exchange import exchanged_steps
from ..rounding.arithmetic import arithmetic, exempt, kept_digits, lowered
from ..subject import Arrays, Subject

RUNS = 6
"""Two in the plain order, and four of perturbed sums: the largest of so many is seldom far below what is typical."""
BESIDE = 2
"""The same beside deviations: one run in the plain order, fused, and one in steps"""
LARGE = 1 << 20
"""The largest error of so many elements hardly varies between runs: one is enough."""
MORE, DOUBT = 24, 4.0
"""So many perturbed runs more at most, where no error is this many times its limit and some are beyond. An array of a
few numbers is often rounded alike in six runs, one unit in the last place off at most, where others make it three or
four: of 1,659 more runs of random models with points of three numbers 13 were beyond three times the largest of six, by
2.7 at most, and none beyond half of three times the largest of thirty."""
FACTOR = 3.0
"""Rounding errors may be this many times the largest of the runs. Correct models run by PyTorch have hardly ever twice
as much (tests/heavy/test_envelope.py)."""
LEAST = 0.15
"""Arithmetic of a dtype has at each point at least this part of the typical error of the runs. Correct models have a
fifth and more; the next finer format has an eighth (float16 beside bfloat16) or far less."""
EXACT = 1e-3
"""The same for float32, beside which there is no finer format to be told but float64, 1e-9 of it."""
NEAR_FLOAT32 = ("tf32", "float16")
"""Formats of some thousand times float32's errors: a hundred times those, from whatever cause, can pass for theirs."""
DOUBTFUL, TINY = 0.5, 0.02
"""Outputs with less than this part of the typical error, or of the limit, are hardly in such a format (one correct
model in fifty): they must repeat the errors of a run."""
REPEATED, FEW = 0.5, 8
"""What is rounded first is the same in every run, weights and inputs: the cosine between errors of two runs is mostly
above 0.9, and below this for one model in ten. Errors made in another way have one around 0, give or take the inverse
root of their number: with fewer than so many it tells nothing."""


class Roundings:
    """Measured when first asked for: the reference in each dtype and in other orders of summation, against float64.

    With `chosen` the reference with these deviations, which give `ours`, in few runs.
    """

    def __init__(self, subject: Subject, ours: Arrays, chosen: Sequence[Candidate] = ()) -> None:
        self.subject, self.ours, self.chosen = subject, ours, tuple(chosen)
        self.known: dict[str, dict[str, float]] = {}
        self.least: dict[str, dict[str, float]] = {}
        """As `known`: the smallest that the runs have of the typical element's error."""
        self.patterns: dict[str, list[np.ndarray]] = {}
        """By dtype the errors of the two runs in the plain order, of all outputs in a row."""

    def at(self, dtype: str) -> dict[str, float]:
        """By compared array: the largest error of a few runs in `dtype`, or where that leaves doubt of more, times
        `FACTOR`."""
        if dtype not in self.known:
            largest, least = dict.fromkeys(self.ours, 0.0), dict.fromkeys(self.ours, np.inf)
            patterns = self.patterns.setdefault(dtype, [])
            for made in self.runs(dtype):
                for name, array in made.items():
                    error = difference(array, self.ours[name])
                    if np.isfinite(error):  # overflow is no rounding
                        largest[name] = max(largest[name], error)
                        least[name] = min(least[name], _typical(array, self.ours[name]))
                if len(patterns) < 2:
                    patterns.append(self._errors(made))
            self.known[dtype] = {name: FACTOR * e for name, e in largest.items()}
            self._run_more(dtype)
            self.least[dtype] = {name: e if np.isfinite(e) else 0.0 for name, e in least.items()}
        return self.known[dtype]

    def _run_more(self, dtype: str) -> None:
        """Raise limits of float32 to what further runs make, as long as errors are beyond them by little."""
        limits = self.known[dtype]
        if dtype != "float32" or self._is_few or not self._is_doubtful(limits):
            return
        for made in self.runs(dtype, range(RUNS, RUNS + MORE)):
            for name, array in made.items():
                error = difference(array, self.ours[name])
                if np.isfinite(error):
                    limits[name] = max(limits[name], FACTOR * error)
            if not self._is_doubtful(limits):
                return

    def _is_doubtful(self, limits: Mapping[str, float]) -> bool:
        """Whether some errors are beyond these limits, and none by far."""
        units = [self._relative(name) / limits[name] for name in self.subject.expected if limits.get(name)]
        return 1 < max(units, default=0.0) <= DOUBT

    @property
    def _is_few(self) -> bool:
        """Whether one run is enough."""
        return self.subject.is_large or sum(array.size for array in self.ours.values()) >= LARGE

    def runs(self, dtype: str, seeds: Sequence[int] | None = None) -> Iterator[Arrays]:
        """What the reference gives with everything in `dtype`: ops fused and in steps in turn, each as it is and then
        in other orders of summation, which `seeds` draw."""

        def narrow(value: Any) -> Any:
            return lowered(value, dtype)

        params, inputs = tree.map(narrow, self.subject.params), tree.map(narrow, self.subject.inputs)
        if seeds is None and self._is_few:
            # a deviation may make much of what the order of sums changes; a large case's own run is of its dtype
            seeds = (2,) if self.chosen or dtype == self.subject.case.meta["dtype"] else (0,)
        if seeds is None:
            seeds = range(BESIDE if self.chosen else RUNS)
        for seed in stepping(seeds, f"running in {dtype}"):
            rng = np.random.default_rng(seed) if seed > 1 else None
            steps = seed % 2 == 1
            wide = dtype in ("float16", "bfloat16") and not steps
            # deviations inside of the arithmetic, which then is that of the ops that come in the place of others
            with (
                arithmetic(dtype, rng, steps=steps),
                _positions(dtype, rng, wide=wide),
                deviating(self.chosen, self.subject.rebuilt.model, params) as (model, changed),
            ):
                yield self.subject.compute(changed, inputs, model)

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
        self.at(dtype)
        least, theirs = self.least[dtype], self.subject.expected
        if not all(self.within(dtype, name) for name in errors):
            return False
        limits = self.known[dtype]
        typical = {n: _typical(self.ours[n], theirs[n]) / least[n] for n in errors if least[n]}
        if not all(part >= (EXACT if dtype == "float32" else LEAST) for part in typical.values()):
            return False
        if dtype not in NEAR_FLOAT32:
            return True
        outputs = [name for name in typical if name.startswith("output/")]
        doubtful = any(typical[n] < DOUBTFUL or self._relative(n) < TINY * limits[n] for n in outputs)
        return not doubtful or self.repeats(dtype)

    def within(self, dtype: str, name: str) -> bool:
        """Whether an error is no larger than arithmetic of `dtype` makes it; storing alone makes some."""
        if name not in self.ours:
            return False
        size = min(1.0, float(np.abs(self.ours[name][np.isfinite(self.ours[name])]).max(initial=0.0)))
        return self._relative(name) <= max(self.at(dtype)[name], FACTOR * 2.0 ** -kept_digits(dtype) * size)

    def units(self, name: str) -> dict[str, float]:
        """The error of one array in units of what has been measured: 1 is the limit; inf where nothing is rounded."""
        error = self._relative(name) if name in self.ours else np.inf
        return {d: error / limit if limit else (np.inf if error else 0.0) for d, limit in self.of(name).items()}

    def _relative(self, name: str) -> float:
        """As `difference`, but relative to the reference, as the runs are measured: a large error is not scaled down
        by itself."""
        return difference(self.subject.expected[name], self.ours[name])

    def repeats(self, dtype: str) -> bool:
        """Whether the outputs' errors have the direction of a run's."""
        error = self._errors(self.subject.expected)
        if error.size < FEW:
            return False
        lengths = [float(np.linalg.norm(error) * np.linalg.norm(run)) for run in self.patterns[dtype]]
        cosines = (run @ error / length for run, length in zip(self.patterns[dtype], lengths) if length)
        return any(cosine >= REPEATED for cosine in cosines)

    def left(self, dtype: str) -> list[float]:
        """What the two runs in the plain order leave of the outputs' difference, 0 to 1 and more."""
        self.at(dtype)
        error = self._errors(self.subject.expected)
        size = float(np.linalg.norm(error))
        return [float(np.linalg.norm(error - run)) / size for run in self.patterns[dtype]] if size else []

    def _errors(self, made: Mapping[str, np.ndarray]) -> np.ndarray:
        """Those of all outputs in one row."""
        rows = []
        for name, ours in self.ours.items():
            if name.startswith("output/"):
                scale = max(float(np.abs(ours[np.isfinite(ours)]).max(initial=0.0)), 1.0)
                rows.append(np.nan_to_num((made[name].astype(np.float64) - ours) / scale, posinf=0, neginf=0).ravel())
        return np.concatenate(rows)


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

    with exchanged_steps({"linear_positions": grid, "frequencies": grid, "fourier_features": features}):
        yield
