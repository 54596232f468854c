"""Statistics and scattered elements of an array, in place of the array: `meta["summaries"]` by the array's key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import InputError, shortened

_MEASURES: dict[str, Any] = {
    "mean": np.mean,
    "std": np.std,
    "min": np.min,
    "max": np.max,
    "rms": lambda x: np.sqrt(np.mean(x * x)),
}


def summary(array: np.ndarray, samples: int = 0) -> dict[str, Any]:
    """Of an array: `shape`, `dtype`, statistics and, where they are asked for, samples.

    `mean`, `std`, `min`, `max` and `rms` are of the finite numbers in float64, None where there is none; `not_finite`
    is how many others there are. `at` are places in the array as one row (the last axis first), and `values` what is
    there, None for NaN and infinities.
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    finite = flat[np.isfinite(flat)].astype(np.float64)
    made: dict[str, Any] = {"shape": list(array.shape), "dtype": array.dtype.name}
    made |= {"not_finite": int(flat.size - finite.size)}
    with np.errstate(over="ignore"):
        for name, measure in _MEASURES.items():
            made[name] = _number(measure(finite)) if finite.size else None
    if samples:
        at = scattered(flat.size, samples)
        made["at"] = at.tolist()
        made["values"] = [_number(float(x)) for x in flat[at]]
    return made


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


def pair(given: Mapping[str, Any], ours: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """What a summary holds, as (theirs, ours), two rows of numbers to compare: its statistics, then its samples.

    NaN where a number is not finite, or is not given. Raises `InputError` for what is no summary.
    """
    try:
        at = np.asarray(given.get("at", []), np.int64)
        rows = [[given.get(name) for name in _MEASURES], given.get("values", [])]
        theirs = np.array([np.nan if x is None else float(x) for row in rows for x in row])
        if len(theirs) != len(_MEASURES) + len(at) or (at < 0).any() or (at >= ours.size).any():
            raise ValueError("places beyond the array")
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"meta.summaries: {shortened(what)} is no summary ({error})") from None
    own = summary(ours)
    elements = ours.reshape(-1)[at].astype(np.float64)
    values = [np.nan if own[name] is None else own[name] for name in _MEASURES]
    return theirs, np.array([*values, *np.where(np.isfinite(elements), elements, np.nan)])


def _number(value: Any) -> float | None:
    """A number for JSON, which has no infinities."""
    return float(value) if np.isfinite(value) else None
