"""How far one array is from another, in the numbers that porters ask for: a table of measures.

A row drives `check`, `compare` and `diagnose` alike: a column, a key in JSON, and an option that makes it a threshold.
Everything is computed in float64, block by block: no more than a few MB beside the arrays, whatever their size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from ..errors import one_of
from .cases.compare import BLOCK, blocks, magnitudes

_SMALL = 1e-30
"""Numbers above it and below its reciprocal have squares, also of what rounding leaves of them, that float64 holds."""

Measures = dict[str, float]
"""By name; only those that an array has."""


@dataclass(frozen=True)
class Pair:
    """What the measures are made of, of arrays a (under test) and b (the reference) of one shape.

    Places where both are NaN, or the same infinity, agree and count nowhere else; `unlike` counts those where one alone
    is not finite, or with another sign. Sums are of values divided by `unit`: the largest magnitude of both where their
    squares might overflow or vanish, else 1.
    """

    count: int
    unlike: int
    unit: float
    max_abs: float
    rtol: float
    beyond: int
    aa: float
    bb: float
    ab: float
    dd: float
    """Sums of a a, b b, a b and (a - b)^2"""
    centred: tuple[float, float, float]
    """The first three of what differs from its mean"""
    error: float
    rows: tuple[int, int, float] | None = None
    """Of logits: rows, rows with the same largest entry, sum of divergences"""


@dataclass(frozen=True)
class Measure:
    """One row: `of` gives NaN where the measure has no value. `better`: whether a lower or a higher value is closer."""

    name: str
    said: str
    unit: str
    better: Literal["lower", "higher"]
    what: str
    of: Callable[[Pair], float]
    logits: bool = False
    """Whether it is a measure of logits alone (`is_logits`)"""
    spread: bool = False
    """Whether it has no value against a reference whose elements are all the same, such as a loss"""

    @property
    def option(self) -> str:
        """The command line's name for a threshold by it, such as `--max-nmse`."""
        start = "max" if self.better == "lower" else "min"
        return f"--{start}-{self.name.removeprefix('max_').replace('_', '-')}"

    def reaches(self, value: float, limit: float) -> bool:
        """Whether a value is as close as the limit; NaN never is."""
        return value <= limit if self.better == "lower" else value >= limit

    def worst(self, values: Sequence[float]) -> float | None:
        """The worst of these values, NaN where one is; None of none."""
        if not values or any(map(math.isnan, values)):
            return math.nan if values else None
        return max(values) if self.better == "lower" else min(values)

    def text(self, value: float) -> str:
        """A value as tables have it, without its unit."""
        if math.isnan(value):
            return "undefined"
        if self.unit == "dB":
            return f"{value:.1f}"
        if self.unit == "%":
            return f"{100 * value:.3g}"
        if self.better == "higher":
            return _near_one(value)
        return f"{value:.1e}"


def _near_one(value: float) -> str:
    """What tells 0.9999998 from 1, which only 1 itself is: 1-2.0e-07."""
    return f"1-{1 - value:.1e}" if 0 < 1 - value < 1e-4 else f"{value:.5g}"


def _ratio(over: float, under: float) -> float:
    return over / under if under else (0.0 if not over else math.inf)


def _share(found: float, count: int) -> float:
    return found / count if count else math.nan


def _nmse(pair: Pair) -> float:
    ratio = math.inf if pair.unlike else _ratio(pair.dd, pair.bb)
    return 10 * math.log10(ratio) if 0 < ratio < math.inf else -math.inf if not ratio else math.inf


def _snr(pair: Pair) -> float:
    return -_nmse(pair)


def _angle(aa: float, bb: float, ab: float, dd: float, unlike: int, empty: float) -> float:
    if unlike:
        return math.nan
    if not dd:
        return 1.0
    if not aa or not bb:
        return empty
    return min(max(ab / (math.sqrt(aa) * math.sqrt(bb)), -1.0), 1.0)


def _top1(pair: Pair) -> float:
    return math.nan if pair.rows is None else _share(pair.rows[1], pair.rows[0])


def _kl(pair: Pair) -> float:
    return math.nan if pair.rows is None else _share(pair.rows[2], pair.rows[0])


MEASURES: dict[str, Measure] = {
    row.name: row
    for row in (
        Measure(
            "error",
            "error",
            "",
            "lower",
            "max |a - b| / max(max |b|, 1), what every tolerance is of (`cases.compare.difference`)",
            lambda pair: pair.error,
        ),
        Measure("max_abs", "max abs", "", "lower", "max |a - b|", lambda pair: pair.max_abs),
        Measure(
            "nmse",
            "NMSE",
            "dB",
            "lower",
            "10 log10(sum (a - b)^2 / sum b^2); minus infinity where a is b",
            _nmse,
        ),
        Measure(
            "snr", "SNR", "dB", "higher", "minus that: the power of b over that of a - b", lambda pair: -_nmse(pair)
        ),
        Measure(
            "cosine",
            "cosine",
            "",
            "higher",
            "sum a b / sqrt(sum a^2 sum b^2); 0 where one of them is all zeros",
            lambda p: _angle(p.aa, p.bb, p.ab, p.dd, p.unlike, 0.0),
        ),
        Measure(
            "correlation",
            "correlation",
            "",
            "higher",
            "Pearson's: the same of what differs from the mean; undefined where one is constant, but for equal arrays",
            lambda p: _angle(*p.centred, p.dd, p.unlike, math.nan),
            spread=True,
        ),
        Measure(
            "rtol",
            "needed rtol",
            "",
            "lower",
            "the least rtol at atol 0 with |a - b| <= rtol |b| everywhere; infinite where b is 0 and a is not",
            lambda pair: pair.rtol,
        ),
        Measure(
            "atol",
            "needed atol",
            "",
            "lower",
            "the least atol at rtol 0, which is max |a - b|",
            lambda pair: pair.max_abs,
        ),
        Measure(
            "beyond",
            "beyond",
            "%",
            "lower",
            "the share of elements that differ by more than the tolerance, 0 to 1",
            lambda pair: (pair.beyond / pair.count) if pair.count else 0.0,
        ),
        Measure(
            "top1",
            "top-1",
            "%",
            "higher",
            "of logits: the share of rows whose largest entry is the reference's, 0 to 1; of equal ones either",
            _top1,
            logits=True,
        ),
        Measure(
            "kl",
            "KL",
            "",
            "lower",
            "of logits: KL(softmax b || softmax a), in nats, the mean over rows",
            _kl,
            logits=True,
        ),
    )
}
"""Name -> measure of an array a under test against the reference b."""


class Threshold(NamedTuple):
    """A measure and the value that arrays must reach."""

    measure: Measure
    limit: float

    @property
    def said(self) -> str:
        """As it is given on the command line."""
        return f"{self.measure.option} {self.limit:g}"

    def holds(self, found: Mapping[str, float]) -> bool:
        """Whether an array with these measures reaches it, or has no such measure."""
        return self.measure.name not in found or self.measure.reaches(found[self.measure.name], self.limit)


def thresholds(limits: Mapping[str, float]) -> list[Threshold]:
    """Thresholds by the names of measures. Raises `InputError` for another name."""
    for name in limits:
        if name not in MEASURES:
            raise one_of("measure", name, MEASURES)
    return [Threshold(MEASURES[name], float(limit)) for name, limit in limits.items()]


def missed(
    limits: Sequence[Threshold], found: Mapping[str, float], reference: np.ndarray, *, noise: bool = False
) -> tuple[str, ...] | None:
    """The thresholds that an array with these measures does not reach; None where it is held to its tolerance.

    That is without any thresholds, and where most measures mean nothing: the reference is 0 throughout, or `noise`, a
    gradient that is zero but for rounding; and where no threshold has a value against a reference that is constant.
    """
    if noise or not reference.any():
        return None
    if any(limit.measure.spread for limit in limits) and (reference == reference.flat[0]).all():
        limits = [limit for limit in limits if not limit.measure.spread]
    if not limits:
        return None
    return tuple(limit.said for limit in limits if not limit.holds(found))


def is_logits(name: str, array: np.ndarray) -> bool:
    """Whether an array is taken for logits: the last part of its name is `logits`, or ends with `_logits`, and its last
    axis, the classes, has at least two entries."""
    last = name.replace("/", ".").rpartition(".")[2].partition("@")[0].lower()
    return (last == "logits" or last.endswith("_logits")) and array.ndim > 0 and array.shape[-1] > 1 and array.size > 0


def measures(
    candidate: np.ndarray, reference: np.ndarray, *, tolerance: float, error: float, logits: bool = False
) -> Measures:
    """Every measure of `candidate` against `reference`, arrays of one shape and any real dtype.

    `tolerance` says which elements are beyond it: |a - b| > tolerance * max(max |b|, 1). `error` is
    `cases.compare.difference` of the two. With `logits` also the measures of logits, over the last axis. Empty for
    arrays of different shapes: nothing can be measured.

    >>> made = measures(np.array([3.0, 4.0]), np.array([3.0, 5.0]), tolerance=0.1, error=0.2)
    >>> made["max_abs"], made["rtol"], made["beyond"], round(made["nmse"], 2)
    (1.0, 0.2, 0.5, -15.31)
    """
    if candidate.shape != reference.shape:
        return {}
    pair = _pair(candidate, reference, tolerance, error, logits)
    return {row.name: row.of(pair) for row in MEASURES.values() if logits or not row.logits}


def _pair(candidate: np.ndarray, reference: np.ndarray, tolerance: float, error: float, logits: bool) -> Pair:
    unlike, largest_a, top, whole = 0, 0.0, 0.0, True
    plain = magnitudes(candidate, reference)
    if plain:
        largest_a, top = plain
    else:
        for a, b in blocks(candidate, reference):
            same = np.isfinite(a) & np.isfinite(b)
            if not same.all():
                unlike += int((~same & (a != b) & ~(np.isnan(a) & np.isnan(b))).sum())
                a, b, whole = a[same], b[same], False
            largest_a = max(largest_a, float(np.abs(a).max(initial=0.0)))
            top = max(top, float(np.abs(b).max(initial=0.0)))
    largest = max(largest_a, top)
    unit = 1.0 if _SMALL < largest < 1 / _SMALL else largest or 1.0
    limit = tolerance * max(top, 1.0)
    number, beyond, max_abs, rtol = 0, unlike, 0.0, 0.0
    sums, means, centred = np.zeros(4), np.zeros(2), np.zeros(3)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        for a, b in blocks(candidate, reference, plain=plain is not None):
            if not whole:
                same = np.isfinite(a) & np.isfinite(b)
                a, b = a[same], b[same]
            if not a.size:
                continue
            d = np.subtract(a, b)
            apart = np.abs(d, out=d)
            if (most := float(apart.max())) > 0:
                beyond += int(np.count_nonzero(apart > limit)) if most > limit else 0
                max_abs = max(max_abs, most)
                ratio = np.abs(b)
                np.divide(apart, ratio, out=ratio)  # 0 / 0 is where both are 0
                rtol = max(rtol, float(np.fmax.reduce(ratio)))
            x, y = (a, b) if unit == 1 else (a / unit, b / unit)
            if unit != 1:
                d = np.abs(x - y) if most == math.inf else d / unit  # of two of the largest numbers
            sums += x @ x, y @ y, x @ y, d @ d
            mean = np.array((x.mean(), y.mean()))
            x, y = x - mean[0], y - mean[1]
            # blocks are put together by their means (Chan, Golub and LeVeque 1979)
            step = mean - means
            part = number * (a.size / (number + a.size))
            centred += (x @ x, y @ y, x @ y) + part * step[[0, 1, 0]] * step[[0, 1, 1]]
            number += a.size
            means += step * (a.size / number)
    aa, bb, ab, dd = map(float, sums)
    if unlike:
        max_abs = rtol = math.inf
    if dd == 0.0 < max_abs:  # its square is below the smallest number
        dd = math.ulp(0.0)
    # what is left of a constant after its mean is rounding
    least = [number * (8 * np.finfo(float).eps * abs(mean)) ** 2 for mean in means]
    flat = [0.0 if part <= low else float(part) for part, low in zip(centred[:2], least)]
    rows = _rows(candidate, reference) if logits else None
    moments = (flat[0], flat[1], float(centred[2]))
    return Pair(candidate.size, unlike, unit, max_abs, rtol, beyond, aa, bb, ab, dd, moments, error, rows)


def _rows(candidate: np.ndarray, reference: np.ndarray) -> tuple[int, int, float]:
    """Of logits (..., classes): (rows, rows with the same largest entry, sum of KL divergences)."""
    a, b = (x.reshape(-1, x.shape[-1]) for x in (candidate, reference))
    step, same, total = max(1, BLOCK // a.shape[-1]), 0, 0.0
    for start in range(0, len(a), step):
        x, y = (side[start : start + step].astype(np.float64) for side in (a, b))
        known = ~(np.isnan(x).any(-1) | np.isnan(y).any(-1))
        chosen = np.take_along_axis(y, np.where(known, x.argmax(-1), 0)[:, None], -1)[:, 0]
        same += int((known & (chosen == y.max(-1))).sum())
        total += float(_divergence(x, y).sum())
    return len(a), same, total


def _divergence(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """KL(softmax y || softmax x) by row; entries that are impossible in y, of minus infinity, count for nothing."""
    with np.errstate(all="ignore"):
        log_p, log_q = (z - z.max(-1, keepdims=True) for z in (y, x))
        log_p, log_q = (z - np.log(np.exp(z).sum(-1, keepdims=True)) for z in (log_p, log_q))
        p = np.exp(log_p)
        terms = np.where(p == 0, 0.0, p * (log_p - log_q))
    made: np.ndarray = np.where((x == y).all(-1), 0.0, np.maximum(terms.sum(-1), 0.0))
    return made
