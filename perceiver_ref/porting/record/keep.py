"""What of an intermediate value is kept: all of it, or statistics and scattered samples.

A `Keep` turns the array of one point into what is written. Another way of keeping, such as a probe's, is another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np


class Kept(NamedTuple):
    """What is kept of one point: an array, written under the point's own key, and a summary, which goes into
    `meta["summaries"]` by that key. None for what there is not."""

    array: np.ndarray | None
    summary: dict[str, Any] | None


class Keep(Protocol):
    """Called once for each point with its array, which it must not hold on to: the next call may overwrite it."""

    def __call__(self, array: np.ndarray) -> Kept:
        """What is kept of this array."""


def whole(array: np.ndarray) -> Kept:
    """All of it."""
    return Kept(array, None)


@dataclass(frozen=True)
class Summary:
    """Statistics, and `samples` elements from all over the array, in place of the array.

    The summary holds `shape`, `dtype`, `mean`, `std`, `min`, `max` and `rms` of the finite numbers in float64 (None
    where there is none), `not_finite`, how many others there are, and with samples `at`, indices into the array as one
    row (the last axis first), and `values`, None for NaN and infinities.
    """

    samples: int = 0

    def __call__(self, array: np.ndarray) -> Kept:
        flat = np.ascontiguousarray(array).reshape(-1)
        finite = flat[np.isfinite(flat)].astype(np.float64)
        made: dict[str, Any] = {"shape": list(array.shape), "dtype": array.dtype.name}
        made |= {"not_finite": int(flat.size - finite.size)}
        with np.errstate(over="ignore"):
            for name, measure in _MEASURES.items():
                made[name] = _number(measure(finite)) if finite.size else None
        if self.samples:
            at = scattered(flat.size, self.samples)
            made["at"] = at.tolist()
            made["values"] = [_number(float(x)) for x in flat[at]]
        return Kept(None, made)


_MEASURES: dict[str, Any] = {
    "mean": np.mean,
    "std": np.std,
    "min": np.min,
    "max": np.max,
    "rms": lambda x: np.sqrt(np.mean(x * x)),
}


def scattered(size: int, count: int) -> np.ndarray:
    """`count` indices below `size`, ascending and all different: one of each of `count` equal stretches.

    Where in its stretch it is changes by the golden ratio from one to the next, so that no axis of an array is in step
    with them. All indices where there are no more than `count`.
    """
    if size <= count:
        return np.arange(size)
    i = np.arange(count)
    first = i * size // count
    length = (i + 1) * size // count - first
    made: np.ndarray = first + (length * ((i * 0.6180339887498949) % 1.0)).astype(np.int64)
    return made


def _number(value: Any) -> float | None:
    """A number for JSON, which has no infinities."""
    return float(value) if np.isfinite(value) else None
