"""When two arrays agree: the largest difference against a tolerance, relative to the reference's largest value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

TOLERANCES: dict[str, dict[str, float]] = {
    "float64": {"output": 1e-10, "gradient": 1e-8},
    "float32": {"output": 1e-5, "gradient": 1e-4},
    "float16": {"output": 3e-3, "gradient": 1e-2},
    "bfloat16": {"output": 2.4e-2, "gradient": 8e-2},
}
"""By dtype: about 1e5 units of float64 rounding (100 of float32, 3 of float16 and bfloat16) for an output, which deep
models lose to the order of summation, and a hundred (ten, three) times as much for gradients, which pass through twice
as many ops."""
GRADIENT_NOISE = {"float64": 1e-11, "float32": 1e-5, "float16": 0.1, "bfloat16": 0.8}
"""By dtype: a gradient below this part of the largest of its pass may be zero but for rounding, as keys' biases' are.

In all stored cases such noise is at most 6e-16 of the largest in float64, and 4e-8 in float32. A tenth of this is at
least 15 units of the largest's rounding."""
BLOCK = 1 << 15
"""Elements that are computed with at a time in float64: half a dozen arrays of so many stay in a processor's cache."""
_OWN = 0.1
"""What is no noise is wrong when it is off by more than this part of its own size."""


class Agreement(NamedTuple):
    """One compared array: its error as `difference` has it, the tolerance it was held to, and what else is to be said.

    `note` says why an error is infinite: both shapes, or where there is a NaN or an infinity that one side alone has.
    `shape` is the reference's. `measures`: by name (`porting.measures`), where they were asked for, and `found`: what
    the difference looks like (`porting.patterns`), rows and words. `missed`: the thresholds that are held to instead of
    the tolerance and are not reached; None where there are none.
    """

    kind: str
    name: str
    error: float
    tolerance: float
    note: str = ""
    shape: tuple[int, ...] = ()
    measures: Mapping[str, float] = MappingProxyType({})
    found: tuple[tuple[str, str], ...] = ()
    missed: tuple[str, ...] | None = None

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; another shape never is, whatever the tolerance."""
        return passes(self.error, self.tolerance, self.missed)


def passes(error: float, tolerance: float, missed: Sequence[str] | None) -> bool:
    """Whether an array agrees: by its tolerance, or by thresholds, of which none is missed; never where the error is
    infinite, for another shape or what is not finite on one side alone."""
    return math.isfinite(error) and (error <= tolerance if missed is None else not missed)


def agreement(kind: str, name: str, case: np.ndarray, reference: np.ndarray, tolerance: float) -> Agreement:
    """Compare an array of a case with the reference's, as `difference` does."""
    error = difference(case, reference)
    note = ""
    if case.shape != reference.shape:
        note = f"shape {shape_text(case)} in the case, {shape_text(reference)} in the reference"
    elif error == math.inf:
        note = "; ".join(not_finite(reference, case, ("reference", "case")))
    return Agreement(kind, name, error, tolerance, note, reference.shape)


def difference(candidate: np.ndarray, reference: np.ndarray, scale: np.ndarray | None = None) -> float:
    """The error of an array: the one definition of it that every command and every test uses.

        max |candidate - reference| / max(max |reference|, 1)

    The reference is what perceiver-ref computes, in `check` and in `diagnose`; the case, for a port in its own tests
    (`perceiver_ref.testing`); REFERENCE, in `compare`. NaN and infinities agree with themselves alone: anything
    else that is not finite, or another shape, is an infinite error. The lowest number of one dtype, as a mask to be
    added holds it, agrees with another dtype's, the largest likewise. `scale`: divide by this array's largest value, so
    that several errors have one unit.

    >>> import numpy as np
    >>> difference(np.array([2.0, 100.0]), np.array([1.0, 100.0]))
    0.01
    """
    if candidate.shape != reference.shape:
        return math.inf
    if not candidate.size:
        return 0.0
    if plain := magnitudes(candidate, reference):
        with np.errstate(over="ignore"):
            most = max(float(np.abs(a - b).max()) for a, b in blocks(candidate, reference, plain=True))
        return most / max(plain[1] if scale is None else _size(scale), 1.0)
    a, b = widened(candidate, reference)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return math.inf
    if not finite.any():
        return 0.0
    with np.errstate(over="ignore"):
        return float(np.abs(a[finite] - b[finite]).max() / max(_size(b if scale is None else scale), 1.0))


def coarsest(*dtypes: str) -> str:
    """The least precise of these dtypes, by its tolerance; float64 where there is none that has one."""
    known = [name for name in dtypes if name in TOLERANCES]
    return max(known, key=lambda name: TOLERANCES[name]["output"], default="float64")


def not_finite(reference: np.ndarray, candidate: np.ndarray, sides: tuple[str, str]) -> list[str]:
    """What there is of NaN and infinities, in words: in both at the same places, or in one of the `sides` alone."""
    if np.isfinite(reference).all() and np.isfinite(candidate).all():
        return []
    notes = []
    kinds: dict[str, Callable[[Any], Any]] = {
        "NaN": np.isnan,
        "infinite": lambda x: x == np.inf,
        "negatively infinite": lambda x: x == -np.inf,
    }
    for what, test in kinds.items():
        in_a, in_b = test(reference), test(candidate)
        if np.array_equal(in_a, in_b):
            if count := int(in_a.sum()):
                notes.append(f"{count} {what} in both")
            continue
        for side, alone in ((sides[0], in_a & ~in_b), (sides[1], in_b & ~in_a)):
            if count := int(alone.sum()):
                place = [int(i) for i in np.argwhere(alone)[0]]
                notes.append(f"{count} {what} in the {side} alone, first at {place}")
    return notes


def shape_text(array: np.ndarray) -> str:
    """A shape as messages have it."""
    return str(list(array.shape))


def gradient_tolerance(tolerance: float, dtype: str, ours: np.ndarray, theirs: np.ndarray, largest: float) -> float:
    """The tolerance of a gradient: less than the usual one for what is small.

    `largest` is G, the largest number among the case's gradients and the cotangents that their pass begins with
    (`largest_of`). The error of a gradient b is held to

        tolerance * min(1, max(max |b|, G))

    so that a loss in other units changes no verdict; and where the reference's, a, is above `GRADIENT_NOISE` * G, to a
    tenth of it besides, so that a small gradient is not wrong throughout beside large ones.

    >>> import numpy as np
    >>> small, zero = np.array([2e-7]), np.zeros(1)
    >>> gradient_tolerance(1e-4, "float32", small, small, 2e-7), gradient_tolerance(1e-4, "float32", zero, small, 0.1)
    (2e-11, 1e-05)
    """
    size = _size(ours)
    allowed = tolerance * min(1.0, max(_size(theirs), largest, 1e-290))
    return min(allowed, _OWN * size) if size > GRADIENT_NOISE[dtype] * largest else allowed


def largest_of(*groups: Mapping[str, np.ndarray]) -> float:
    """The largest finite magnitude in groups of arrays."""
    return max((_size(array) for group in groups for array in group.values()), default=0.0)


def _size(array: np.ndarray) -> float:
    """The largest finite magnitude."""
    if (plain := _magnitude(array)) is not None:
        return plain
    wide = _wide(array)
    return float(np.abs(wide[np.isfinite(wide)]).max(initial=0.0))


def distances(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """|candidate - reference| of arrays of one shape: 0 where both are NaN or one infinity, inf where one alone is."""
    a, b = _wide(candidate), _wide(reference)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return np.where(np.isnan(apart), np.inf, apart)


def largest_difference(reference: np.ndarray, candidate: np.ndarray) -> tuple[int, ...]:
    """Where two arrays of one shape differ most; a NaN or infinity that only one of them has comes first."""
    apart = distances(reference, candidate)
    return tuple(int(i) for i in np.unravel_index(int(apart.argmax()), apart.shape))


def widened(candidate: np.ndarray, reference: np.ndarray) -> tuple[Any, Any]:
    """Both in float64; 0 in both where each is the largest number of its own dtype, or each the lowest."""
    a, b = _wide(candidate), _wide(reference)
    if not (_has_end(candidate) and _has_end(reference)):
        return a, b
    extreme = (np.sign(a) == np.sign(b)) & _is_end(candidate) & _is_end(reference)
    return (np.where(extreme, 0.0, a), np.where(extreme, 0.0, b)) if extreme.any() else (a, b)


def magnitudes(candidate: np.ndarray, reference: np.ndarray) -> tuple[float, float] | None:
    """The largest magnitude of each; None of arrays that need more than `_wide` to be compared.

    That is those that are not all finite, or both have their dtype's largest or lowest number, and rare dtypes.
    """
    a, b = _magnitude(candidate), _magnitude(reference)
    if a is None or b is None or (a >= np.finfo(candidate.dtype).max and b >= np.finfo(reference.dtype).max):
        return None
    return a, b


def _magnitude(array: np.ndarray) -> float | None:
    """The largest magnitude, where an array is of float32 or float64 and finite; None elsewhere. Nothing is copied."""
    if array.dtype.char not in "fd" or not array.dtype.isnative or not array.size:
        return None
    with np.errstate(invalid="ignore"):
        low, high = float(array.min()), float(array.max())
    return max(-low, high) if math.isfinite(low) and math.isfinite(high) else None


def blocks(
    candidate: np.ndarray, reference: np.ndarray, *, plain: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Both `widened`, flat, a block at a time, not to be written to; arrays that do not lie in one piece row by row.

    `plain`: arrays of which `magnitudes` are known.
    """
    for a, b in _pieces(candidate, reference):
        for start in range(0, a.size, BLOCK):
            x, y = a[start : start + BLOCK], b[start : start + BLOCK]
            yield (x.astype(np.float64, copy=False), y.astype(np.float64, copy=False)) if plain else widened(x, y)


def _pieces(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    whole = all(x.flags.c_contiguous for x in (a, b))
    if whole or a.size <= BLOCK or a.ndim < 2:
        yield a.reshape(-1), b.reshape(-1)
    else:
        rows = max(1, BLOCK // max(a[0].size, 1))
        for start in range(0, len(a), rows):
            yield from _pieces(*(np.ascontiguousarray(x[start : start + rows]) for x in (a, b)))


def _has_end(array: np.ndarray) -> bool:
    """Whether one of its numbers may be its dtype's largest or lowest, without a mask of them."""
    if array.dtype.kind != "f" or not array.size:
        return False
    most = max(np.fmax.reduce(array, axis=None), -np.fmin.reduce(array, axis=None))
    return bool(most >= np.finfo(array.dtype).max)


def _is_end(array: np.ndarray) -> Any:
    return np.abs(array) == np.finfo(array.dtype).max if array.dtype.kind == "f" else np.zeros(array.shape, bool)


def _wide(array: np.ndarray) -> Any:
    return array.astype(np.float64)
