"""Medians, spread, ratios and exponents."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from perceiver_ref.errors import InputError


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    median: float
    low: float
    high: float

    @property
    def share(self) -> float:
        """Half the distance of the quartiles, as a share of the median."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value; quartiles by linear interpolation between the sorted values."""
    if not values:
        raise InputError("there is no value to take the median of")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """ours / theirs, turn by turn: what slowed a whole round down is in both."""
    if len(ours) != len(theirs):
        raise InputError(f"there are {len(ours)} times of one and {len(theirs)} of the other")
    return spread([a / b for a, b in zip(ours, theirs)])


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """e of values = c size^e, by least squares in logarithms; at least two different sizes, everything positive."""
    if len(sizes) != len(values) or len(set(sizes)) < 2 or min((*sizes, *values)) <= 0:
        raise InputError("an exponent needs positive values at two sizes or more")
    x, y = [math.log(s) for s in sizes], [math.log(v) for v in values]
    middle = statistics.fmean(x), statistics.fmean(y)
    across = sum((a - middle[0]) ** 2 for a in x)
    return sum((a - middle[0]) * (b - middle[1]) for a, b in zip(x, y)) / across


def calls(seconds: float, least: float) -> int:
    """How many calls make a turn of at least so many seconds."""
    return max(1, math.ceil(least / max(seconds, 1e-9)))


def rounds(turns: float, budget: float, fewest: int, most: int) -> int:
    """How many rounds of so many seconds fit the budget."""
    return max(fewest, min(most, int(budget / max(turns, 1e-9))))
