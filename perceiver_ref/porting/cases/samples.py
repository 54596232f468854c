"""What is kept of an array in its place: elements at scattered places, and statistics of all of them.

`sampled` is what everything that makes probes calls, and recording; `disagreement` compares.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError, listed, shortened
from .compare import difference, shape_text
from .generator import bits, check_shape

VERSION = 1
"""Of what `meta.probe` is."""
GIVEN = ("params", "inputs", "cotangents")
"""What of a case a probe has specifications of, by the fields of `Case`."""
COUNT = 16
"""Elements that are kept, unless it is said otherwise."""
MOST = 1 << 16
COLUMNS = ("sum", "l2", "minimum", "maximum", "mean", "rms", "nan", "infinite")
"""The statistics, in their order: of the finite elements in float64, and how many are not finite."""
_MEASURED = {"float64", "float32", "float16", "int64", "int32", "bool"}


@dataclass(frozen=True)
class Sampled:
    """`samples` (count, 2): flat row-major index and element; `statistics`: one number for each of `COLUMNS`; float64.

    `shape` and `dtype` are the array's.
    """

    samples: np.ndarray
    statistics: np.ndarray
    shape: tuple[int, ...]
    dtype: str

    @property
    def ends(self) -> np.ndarray:
        """The smallest and the largest finite element: what tolerances are relative to."""
        return self.statistics[2:4].astype(self.dtype if self.dtype in _FLOATS else np.float64)

    @property
    def like(self) -> np.ndarray:
        """Zeros of its shape and dtype, without memory for them."""
        return np.broadcast_to(np.zeros((), self.dtype), self.shape)

    @property
    def spec(self) -> dict[str, Any]:
        """What `meta.probe.arrays` says of it."""
        return {"shape": list(self.shape), "dtype": self.dtype}


_FLOATS = ("float64", "float32", "float16")


def indices(size: int, seed: int = 0, count: int = COUNT) -> np.ndarray:
    """The flat places that are kept, ascending, int64: all of a small array, else one from each of `count` stretches.
    None of them where `count` is 0.

    Stretch j is from j * size / count to (j + 1) * size / count, rounded down, the end left out; the place in it is
    `bits(seed, "samples", j)` modulo its length.

    >>> indices(1000, count=4).tolist()
    [88, 392, 720, 975]
    """
    if size <= count or not count:
        return np.arange(min(size, count))
    starts = np.array([j * size // count for j in range(count + 1)], np.uint64)
    inside = bits(seed, "samples", 0, count) % (starts[1:] - starts[:-1])
    made: np.ndarray = (starts[:-1] + inside).astype(np.int64)
    return made


def sampled(array: Any, seed: int = 0, count: int = COUNT) -> Sampled:
    """What is kept of an array of any shape, on the host; `seed` and `count` are the probe's."""
    array = np.asarray(array)
    flat = array.reshape(-1)
    chosen = indices(flat.size, seed, count)
    samples = np.stack([chosen.astype(np.float64), flat[chosen].astype(np.float64)], 1)
    name = array.dtype.name if array.dtype.name in _MEASURED else "float64"
    return Sampled(samples, statistics(flat), tuple(int(n) for n in array.shape), name)


def statistics(array: np.ndarray) -> np.ndarray:
    """The numbers of `COLUMNS`, float64 (8,); all 0 of no elements."""
    wide = array.astype(np.float64, copy=False)
    finite = np.isfinite(wide)
    kept = wide if finite.all() else wide[finite]
    nan = int(np.isnan(wide).sum())
    if not kept.size:
        return np.array([0.0] * 6 + [nan, wide.size - nan])
    largest = float(np.abs(kept).max()) or 1.0  # so that no square overflows
    squares = float(np.square(kept / largest).sum())
    with np.errstate(over="ignore"):
        total = float(kept.sum())
        values = [total, largest * math.sqrt(squares), kept.min(), kept.max()]
        values += [total / kept.size, largest * math.sqrt(squares / kept.size), nan, wide.size - kept.size - nan]
    return np.array(values, np.float64)


def disagreement(theirs: Sampled, ours: Sampled) -> tuple[float, float, str]:
    """(error of the samples, error of the statistics, why one is infinite), `ours` being the reference's.

    Samples are compared as an array is, relative to the largest element of the whole array. Where no element of the
    whole differs by more than d, the mean, the root mean square, the least and the largest differ by no more than d
    either, the sum by no more than d times their number, and the L2 norm by no more than d times its root: in these
    units the error of the statistics is the largest of theirs, infinite where numbers of NaN or infinities differ.
    """
    if theirs.shape != ours.shape:
        shapes = [shape_text(np.broadcast_to(0, s.shape)) for s in (theirs, ours)]
        return math.inf, math.inf, f"shape {shapes[0]} in the case, {shapes[1]} in the reference"
    if not np.array_equal(theirs.samples[:, 0], ours.samples[:, 0]):
        return math.inf, math.inf, "samples are of other places than the seed and number of the probe give"
    samples = difference(theirs.samples[:, 1], ours.samples[:, 1], ours.ends)
    a, b = theirs.statistics, ours.statistics
    if not np.array_equal(a[6:], b[6:]):
        note = ", ".join(
            f"{int(x[6])} NaN and {int(x[7])} infinite in the {w}" for x, w in ((a, "case"), (b, "reference"))
        )
        return samples, math.inf, note
    size = max(math.prod(ours.shape), 1)
    units = np.array([size, math.sqrt(size), 1, 1, 1, 1])
    scale = max(float(np.abs(b[2:4]).max(initial=0.0)), 1.0)
    errors = np.abs(a[:6] - b[:6]) / (units * scale)
    return samples, float(np.max(errors)) if np.isfinite(errors).all() else math.inf, ""


def read_all(
    path: object, own: Mapping[str, Any], samples: Mapping[str, np.ndarray], numbers: Mapping[str, np.ndarray]
) -> dict[str, Sampled]:
    """By key, what a file with this `meta.probe` or `meta.sampled` holds; `InputError` for what cannot be."""
    if odd := sorted(set(samples) ^ set(numbers)):
        raise InputError(f"{path}: sample/ and statistics/ must have the same arrays, not {listed(odd, 3)} alone")
    return {key: _read(path, key, own["arrays"].get(key), array, numbers[key]) for key, array in samples.items()}


def validate(
    path: object,
    own: Any,
    samples: Mapping[str, np.ndarray],
    numbers: Mapping[str, np.ndarray],
    cotangents: Mapping[str, np.ndarray],
) -> None:
    """Raise `InputError` unless a file with this `meta.probe` is a probe."""
    _check_own(path, "probe", own)
    for key in (*GIVEN, "weights"):
        if not isinstance(own.get(key), Mapping) and own.get(key) is not None:
            raise InputError(f"{path}: meta: probe: {key} must be an object, got {shortened(own.get(key))}")
    weights = own.get("weights")
    if weights is not None and not (
        isinstance(weights.get("sha256"), str) and all(isinstance(weights.get(k), int) for k in ("arrays", "elements"))
    ):
        raise InputError(f"{path}: meta: probe: weights must have sha256, arrays and elements")
    if not any(key.startswith("output/") for key in samples):
        raise InputError(f"{path} has no sample/output/<name>: there is nothing to compare")
    for key in samples:
        if key.partition("/")[0] not in ("output", "trace", "grad_param", "grad_input"):
            raise InputError(f"{path}: sample/{shortened(key, bare=True)} is of no output, trace or gradient")
    if any(key.startswith("grad_") for key in samples) and not (own.get("cotangents") or cotangents):
        raise InputError(f"{path} has gradients, but no cotangents: nothing says of which loss they are")
    read_all(path, own, samples, numbers)


def validate_beside(
    path: object,
    own: Any,
    samples: Mapping[str, np.ndarray],
    numbers: Mapping[str, np.ndarray],
    trace: Iterable[str],
) -> None:
    """Raise `InputError` unless `meta.sampled` says of what the samples beside the whole arrays of a case are."""
    if own is None:
        raise InputError(f"{path} has samples, but no probe in meta and no sampled, which say of what")
    _check_own(path, "sampled", own)
    for key in samples:
        if not key.startswith("trace/"):
            raise InputError(f"{path}: sample/{shortened(key, bare=True)} is of no trace/<path>, and this is no probe")
        if key.removeprefix("trace/") in trace:
            raise InputError(f"{path} has {shortened(key, bare=True)} twice, as a whole and as samples")
    read_all(path, own, samples, numbers)


def _check_own(path: object, what: str, own: Any) -> None:
    """What `meta.probe` and `meta.sampled` share."""
    if not isinstance(own, Mapping) or own.get("version") != VERSION:
        raise InputError(f"{path}: meta: {what} must be an object of version {VERSION}, got {shortened(own)}")
    for key, most in (("seed", (1 << 63) - 1), ("samples", MOST)):
        value = own.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise InputError(f"{path}: meta: {what}: {key} must be a whole number, got {shortened(value)}")
    if not isinstance(own.get("arrays"), Mapping):
        raise InputError(f"{path}: meta: {what}: arrays must be an object, got {shortened(own.get('arrays'))}")


def _read(path: object, key: str, spec: Any, samples: np.ndarray, numbers: np.ndarray) -> Sampled:
    """What a file holds of the array `key`; `InputError` where it cannot be."""
    where = f"{path}: sample/{key}"
    if not isinstance(spec, Mapping):
        raise InputError(f"{path}: meta: arrays has no {shortened(key)}")
    shape, dtype = check_shape(where, spec.get("shape")), spec.get("dtype")
    size = math.prod(shape)
    if not isinstance(dtype, str) or dtype not in _MEASURED:
        raise InputError(f"{where}: unknown dtype {shortened(dtype)}")
    if samples.dtype.kind != "f" or samples.ndim != 2 or samples.shape[1] != 2:
        raise InputError(f"{where} must be (count, 2) numbers, got {samples.dtype} of shape {samples.shape}")
    if numbers.dtype.kind != "f" or numbers.shape != (len(COLUMNS),):
        raise InputError(f"{path}: statistics/{key} must be {len(COLUMNS)} numbers, got shape {numbers.shape}")
    places = samples[:, 0]
    if not (np.isfinite(places).all() and (places >= 0).all() and (places < max(size, 1)).all()):
        raise InputError(f"{where} has places outside of an array of {size:,} elements")
    return Sampled(samples.astype(np.float64), numbers.astype(np.float64), shape, str(dtype))
