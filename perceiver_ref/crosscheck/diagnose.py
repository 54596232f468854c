"""Why an implementation's outputs differ from the reference's: rounding, or a known deviation, and which.

The reference is run with each deviation of the table, then with pairs; what makes it give the outputs under test is the
cause. Where the case has traced points, a deviation is given up at the first of them that it does not explain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..autograd import tree
from ..autograd.backend import to_host
from ..call import Call
from ..errors import InputError, input_errors
from ..files import AnyPath
from ..peers import peer
from ..peers.base import Given, Rebuilt
from ..tracing import trace, where
from ..variation import varied
from ..vectors import TOLERANCES, Case, read_case
from ..vectors.compare import difference
from .check import spread
from .deviations import Candidate, candidates, deviating, survey
from .rounding import DIGITS, arithmetic, rounded_tree

EXPLAINED = 0.01
"""A deviation is the cause when it leaves at most this part of the difference."""
NOTHING = 1e-6
"""What is left is nothing: float64 leaves less, and two deviations that both leave so little cannot be told apart."""
PARTLY = 0.5
"""The same for a part in less precision, whose rounding errors cannot be repeated one by one."""
ROUNDING_FACTOR = 4.0
"""Rounding errors may be this many times those of the runs that they are estimated from."""
_PAIRS_TRIED = 120

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Cause:
    """A deviation with the variant that fits and what it leaves of the difference, 0 to 1."""

    cause: str
    variant: str
    remaining: float


@dataclass(frozen=True)
class PointError:
    """One compared array: its error, and that which rounding to each dtype would make."""

    name: str
    error: float
    rounding: Mapping[str, float]


@dataclass
class Diagnosis:
    """What `diagnose` found. `error` is the largest among outputs; `causes` are the best explanation's, in order."""

    path: str
    verdict: str
    first_divergence: str | None
    explanation: list[Cause]
    error: float
    expected_rounding: dict[str, float]
    dtype: str | None = None
    """The format whose rounding explains the difference, for the verdict "rounding"."""
    points: list[PointError] = field(default_factory=list)
    others: list[list[Cause]] = field(default_factory=list)
    """Further explanations, the best first."""
    excerpt: Arrays = field(default_factory=dict)
    """For an unexplained difference: where it begins, ours and theirs."""

    @property
    def causes(self) -> list[str]:
        return [cause.cause for cause in self.explanation]


class _GivenUpError(Exception):
    """A run that need not go on."""


class Subject:
    """A case under test: the reference rebuilt for it, and what it is compared with."""

    def __init__(self, case: Case) -> None:
        aliases = case.meta.get("tied", {})
        arrays = {name: array for name, array in (case.params | case.state).items() if name not in aliases}
        self.case = case
        self.rebuilt: Rebuilt = peer(case.meta["peer"]).rebuild(
            case.meta["class"],
            Given(
                case.meta["config"],
                inputs={name: array.shape for name, array in case.inputs.items()},
                params={name: array.shape for name, array in arrays.items()},
                call=case.meta["call"],
            ),
        )
        where = case.meta.get("case", case.meta["class"])
        self.params, self.state = (tree.map(_wide, part) for part in self.rebuilt.load(arrays, where))
        self.inputs = {name: _wide(array) for name, array in case.inputs.items()}
        named = {name: _points(self.rebuilt, name) for name in case.trace}
        self.kept = {ours for names in named.values() for ours in names}
        self.points: dict[str, str] = {}
        self.expected: Arrays = {}
        with trace(self.kept.__contains__) as traced:
            self._run(self.params, self.inputs)
        order = list(traced)
        for name, names in named.items():
            if found := next((n for n in names if n in traced), None):
                self.points[name] = found
        for name in sorted(self.points, key=lambda n: order.index(self.points[n])):
            self.expected[f"trace/{name}"] = case.trace[name]
        self.expected |= {f"output/{name}": array for name, array in case.outputs.items()}

    def compute(self, params: Any = None, inputs: Any = None) -> Arrays:
        """Traced points and outputs by the peer's names, as `expected` has them, in float64."""
        params, inputs = self.params if params is None else params, self.inputs if inputs is None else inputs
        with trace(self.kept.__contains__) as traced, np.errstate(all="ignore"):
            outputs = self._run(params, inputs)
        made: Arrays = {}
        for name, ours in self.points.items():
            if ours in traced:
                made[f"trace/{name}"] = spread(to_host(traced[ours]), self.case.trace[name])
        for name in self.case.outputs:
            if name not in outputs:
                raise InputError(f"the reference gives no output {name!r}; it gives {', '.join(outputs)}")
            made[f"output/{name}"] = to_host(outputs[name])
        return made

    def _run(self, params: Any, inputs: Any) -> dict[str, Any]:
        call = Call(training=bool(self.case.meta["call"].get("is_training", False)), state=self.state)
        return self.rebuilt.run(params, dict(inputs), self.case.meta["call"], call)

    def deviating(self, chosen: Sequence[Candidate], gate: Mapping[str, float] | None = None) -> Arrays | None:
        """The same with deviations; None where they cannot be applied, or leave more at a point than `gate` allows."""
        try:
            with deviating(chosen, self.params) as params, self._gated(gate):
                return self.compute(params)
        except (_GivenUpError, ValueError, TypeError, IndexError, KeyError, AttributeError, ZeroDivisionError):
            return None

    def _gated(self, gate: Mapping[str, float] | None) -> Any:
        """Give up at the first point whose error is above its limit."""
        limits: dict[str, tuple[np.ndarray, float]] = {}
        for name, limit in (gate or {}).items():
            limits[self.points[name.removeprefix("trace/")]] = (self.expected[name], limit)

        def point(original: Any, name: str, value: Any) -> Any:
            value = original(name, value)
            place = where()
            full = f"{place}.{name}" if place and name else place or name
            if full in limits:
                expected, limit = limits.pop(full)
                if not difference(spread(to_host(value), expected), expected) <= limit:
                    raise _GivenUpError
            return value

        return varied({"point": point})


def diagnose_file(path: AnyPath) -> Diagnosis:
    """`diagnose` on a case file. Raises `InputError` for one that cannot be run."""
    return diagnose(read_case(path), str(path))


def diagnose(case: Case, path: str = "") -> Diagnosis:
    """Compare a case's outputs with the reference's and explain the difference (see `Diagnosis`)."""
    with input_errors("the inputs do not fit the model"):
        subject = Subject(case)
        ours = subject.compute()
    errors = _errors(subject, ours)
    tolerance = case.meta.get("tolerance", {}).get("output", TOLERANCES[case.meta["dtype"]]["output"])
    exact = 1e-10 if case.meta["dtype"] == "float64" else 0.0
    roundings = Roundings(subject, ours)
    error = max(e for name, e in errors.items() if name.startswith("output/"))
    made = Diagnosis(path, "match", None, [], error, {})
    if all(e <= (exact or tolerance) for e in errors.values()) and exact:
        made.expected_rounding = roundings.outputs()
        return made
    search = Search(subject, ours, errors, roundings)
    verdict, explanation = search.run()
    made.verdict, made.explanation, made.others = verdict, explanation, search.others
    made.dtype = search.dtype
    made.expected_rounding = roundings.outputs()
    made.points = [PointError(name, e, roundings.of(name)) for name, e in errors.items()]
    if verdict in ("deviation", "unexplained"):
        made.first_divergence = search.first_divergence()
    if verdict == "unexplained":
        name = search.first or max(errors, key=lambda n: errors[n])
        made.excerpt = {
            "point": np.array(name),
            "reference": ours.get(name, np.zeros(0)),
            "candidate": subject.expected[name],
        }
        made.excerpt |= {f"input/{n}": a for n, a in case.inputs.items()}
    return made


def _errors(subject: Subject, ours: Arrays) -> dict[str, float]:
    """The error of every compared array, in the case's order, outputs last."""
    return {
        name: difference(ours[name], expected) if name in ours else float("inf")
        for name, expected in subject.expected.items()
    }


class Roundings:
    """The errors that correct arithmetic of each dtype would make, at every point: measured when first asked for."""

    runs = 3

    def __init__(self, subject: Subject, ours: Arrays) -> None:
        self.subject, self.ours = subject, ours
        self.known: dict[str, dict[str, float]] = {}

    def at(self, dtype: str) -> dict[str, float]:
        """By compared array: the largest error of a few runs in `dtype`, summed in other orders, times a factor."""
        if dtype not in self.known:
            largest = dict.fromkeys(self.ours, 0.0)
            digits = 24 if dtype == "tf32" else DIGITS[dtype]
            params = rounded_tree(self.subject.params, digits)
            inputs = rounded_tree(self.subject.inputs, digits)
            for seed in range(self.runs):
                with arithmetic(dtype, np.random.default_rng(seed) if seed else None):
                    made = self.subject.compute(params, inputs)
                for name, array in made.items():
                    largest[name] = max(largest[name], difference(array, self.ours[name]))
            self.known[dtype] = {name: ROUNDING_FACTOR * e for name, e in largest.items()}
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
        """Whether every error is within that of `dtype`."""
        limits = self.at(dtype)
        return all(e <= limits.get(name, 0.0) for name, e in errors.items())


class Search:
    """The search for an explanation: single deviations, rounding, pairs."""

    def __init__(self, subject: Subject, ours: Arrays, errors: dict[str, float], roundings: Roundings) -> None:
        self.subject, self.ours, self.errors, self.roundings = subject, ours, errors, roundings
        given = subject.case.meta["dtype"]
        self.noise: Mapping[str, float] = {} if given == "float64" else roundings.at(given)
        self.found = candidates(survey(subject.params, subject.compute))
        self.first = next((n for n, e in errors.items() if e > max(1e-9, self.noise.get(n, 0.0))), None)
        self.scores: list[tuple[float, tuple[Candidate, ...]]] = []
        self.others: list[list[Cause]] = []
        self.dtype: str | None = None

    def first_divergence(self) -> str | None:
        """The peer's name of the first traced point that differs."""
        if self.first is None or not self.first.startswith("trace/"):
            return None
        return self.first.removeprefix("trace/")

    def run(self) -> tuple[str, list[Cause]]:
        """(verdict, explanation)."""
        best = self._single() or self._single(gated=False)
        if best and best[0].remaining <= NOTHING:
            return "deviation", best
        if self.noise and self.roundings.holds(self.subject.case.meta["dtype"], self.errors):
            return self._rounding(self.subject.case.meta["dtype"])
        part = self._part()
        if self.roundings.holds("float32", self.errors) and not best:
            return ("deviation", part) if part else self._rounding("float32")
        if part and not best:
            return "deviation", part
        pair = self._pair()
        if pair and (not best or pair[0].remaining <= NOTHING):
            return "deviation", pair
        if best:
            return "deviation", best
        for dtype in ("tf32", "float16", "bfloat16"):
            if self.roundings.holds(dtype, self.errors):
                return self._rounding(dtype)
        return "unexplained", []

    def _rounding(self, dtype: str) -> tuple[str, list[Cause]]:
        self.dtype = dtype
        return "rounding", []

    def remaining(self, made: Arrays) -> float:
        """The part of the difference in the outputs that is left, 0 to about 1."""
        left = total = 0.0
        for name, expected in self.subject.expected.items():
            if not name.startswith("output/"):
                continue
            if name not in made or made[name].shape != expected.shape or not np.isfinite(made[name]).all():
                return float("inf")
            scale = max(float(np.abs(expected).max(initial=0.0)), 1.0)
            left += float((np.square((made[name] - expected) / scale)).sum())
            total += float((np.square((self.ours[name] - expected) / scale)).sum())
        return float(np.sqrt(left / total)) if total else 0.0

    def explains(self, remaining: float, made: Arrays) -> bool:
        """Whether what is left is little, or rounding."""
        if remaining <= EXPLAINED:
            return True
        left = _errors(self.subject, made)
        return bool(self.noise) and all(e <= self.noise.get(name, 0.0) for name, e in left.items())

    def _gate(self, part: float = 0.1) -> dict[str, float] | None:
        """The first point that differs must come right."""
        if self.first is None or not self.first.startswith("trace/"):
            return None
        return {self.first: max(part * self.errors[self.first], self.noise.get(self.first, 0.0))}

    def _single(self, *, gated: bool = True) -> list[Cause]:
        gate = self._gate() if gated else None
        if not gated and self._gate() is None:
            return []
        for rare in (False, True):
            for candidate in self.found:
                if candidate.rare == rare and candidate.cause != "dtype" and self._try(candidate, gate):
                    return self._best()
            if best := self._best():
                return best
        return []

    def _try(self, candidate: Candidate, gate: Mapping[str, float] | None) -> bool:
        """Note what a deviation explains; True when it leaves nothing, so that none can be better."""
        made = self.subject.deviating([candidate], gate)
        if made is None:
            return False
        remaining = self.remaining(made)
        if self.explains(remaining, made):
            self.scores.append((remaining, (candidate,)))
        return remaining <= NOTHING

    def _best(self) -> list[Cause]:
        """The best explanation so far; among equally good ones the first of the table."""
        if not self.scores:
            return []
        floor = min(score for score, _ in self.scores)
        good = [(0.0 if score <= max(10 * floor, NOTHING) else score, chosen) for score, chosen in self.scores]
        good.sort(key=lambda row: (row[0], len(row[1])))
        exact = {id(row[1]): score for score, row in zip([s for s, _ in self.scores], self.scores)}
        made = [[Cause(c.cause, c.variant, exact.get(id(chosen), score)) for c in chosen] for score, chosen in good]
        seen: list[list[str]] = []
        for causes in made:
            if [c.cause for c in causes] not in seen:
                seen.append([c.cause for c in causes])
                self.others.append(causes)
        best = self.others.pop(0)
        return best

    def _part(self) -> list[Cause]:
        """A part in less precision, where it repeats the difference better than everything in less precision does."""
        scores = []
        for candidate in self.found:
            if (
                candidate.cause == "dtype"
                and (made := self.subject.deviating([candidate], self._gate(1.0))) is not None
            ):
                scores.append((self.remaining(made), candidate))
        if not scores:
            return []
        remaining, best = min(scores, key=lambda row: row[0])
        if not remaining <= PARTLY:
            return []
        for dtype in ("float32", "bfloat16", "float16"):
            with arithmetic(dtype):
                digits = DIGITS[dtype]
                whole = self.subject.compute(
                    rounded_tree(self.subject.params, digits), rounded_tree(self.subject.inputs, digits)
                )
            if self.remaining(whole) <= remaining:
                return []
        return [Cause(best.cause, best.variant, remaining)]

    def _pair(self) -> list[Cause]:
        """Two deviations, first those whose effects add up to the difference."""
        usable = [c for c in self.found if c.cause != "dtype" and not c.rare]
        effects: list[tuple[Candidate, np.ndarray, float]] = []
        target = self._flat(self.subject.expected) - self._flat(self.ours)
        for candidate in usable:
            made = self.subject.deviating([candidate])
            if made is None or any(name not in made for name in self.subject.expected):
                continue
            effect = self._flat(made) - self._flat(self.ours)
            if not np.isfinite(effect).all() or float(np.abs(effect).max(initial=0.0)) <= 1e-12:
                continue
            same = (np.abs(effect - other).max() <= 1e-12 for c, other, _ in effects if c.cause == candidate.cause)
            if not any(same):
                effects.append((candidate, effect, self._first_error(made)))
        for chosen in self._ranked(effects, target):
            made = self.subject.deviating(chosen)
            if made is None:
                continue
            remaining = self.remaining(made)
            if self.explains(remaining, made):
                self.scores.append((remaining, tuple(chosen)))
                if remaining <= NOTHING:
                    break
        return self._best()

    def _first_error(self, made: Arrays) -> float:
        """What is left of the error at the first point that differs, 0 to 1 and more."""
        if self.first is None:
            return 1.0
        left = difference(made[self.first], self.subject.expected[self.first])
        return left / max(self.errors[self.first], 1e-300)

    def _ranked(
        self, effects: list[tuple[Candidate, np.ndarray, float]], target: np.ndarray
    ) -> Iterable[list[Candidate]]:
        """Pairs of different causes, the most promising first."""
        size = max(float(np.linalg.norm(target)), 1e-300)
        right = [i for i, row in enumerate(effects) if row[2] < 0.1] if self._gate() else []
        rows: list[tuple[float, int, int]] = []
        matrix = np.stack([effect for _, effect, _ in effects]) if effects else np.zeros((0, target.size))
        products, against = matrix @ matrix.T, matrix @ target
        for i, (first, _, _) in enumerate(effects):
            for j in range(i + 1, len(effects)):
                if first.cause == effects[j][0].cause:
                    continue
                squared = size**2 - 2 * (against[i] + against[j]) + products[i, i] + products[j, j] + 2 * products[i, j]
                score = float(np.sqrt(max(squared, 0.0))) / size
                if right and not (i in right or j in right):
                    score += 1e3
                rows.append((score, i, j))
        rows.sort()
        tried = _PAIRS_TRIED if not right else 4 * _PAIRS_TRIED
        for _, i, j in rows[:tried]:
            yield [effects[i][0], effects[j][0]]

    def _flat(self, arrays: Arrays) -> np.ndarray:
        parts = []
        for name, expected in self.subject.expected.items():
            if name.startswith("output/"):
                scale = max(float(np.abs(expected).max(initial=0.0)), 1.0)
                parts.append(np.asarray(arrays[name], np.float64).reshape(-1) / scale)
        return np.concatenate(parts)


def _points(rebuilt: Rebuilt, name: str) -> list[str]:
    """Our names for a peer's trace point; none for one that an implementation under test alone has.

    A layer that it calls more often than it should has calls by number: the first is meant.
    """
    for candidate in (name, name.removesuffix("@0")):
        try:
            return rebuilt.point(candidate)
        except InputError:
            continue
    return []


def _wide(array: Any) -> Any:
    return array.astype(np.float64) if array.dtype.kind == "f" else array
