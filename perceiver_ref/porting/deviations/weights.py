"""Weights stored in fewer bits: read back, the model is exact but for what its weights have lost.

What comes of rounded weights is no rounding error of arithmetic: it is the same in every run, and can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ..rounding.arithmetic import rounded
from ..rounding.grid import cast_to
from .base import Candidate, Change, Survey

Stored = Callable[[np.ndarray], np.ndarray]
"""From a peer's array to what is read back of it."""

FLOATING = ("bfloat16", "float16")
"""Formats of weights that are rounding: a model's own, halved."""


class Float8(NamedTuple):
    """A format of 8 bits: binary digits, the largest number, and the exponent below which the spacing stays."""

    digits: int
    largest: float
    smallest: int

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """The nearest numbers of the format; what is too large becomes the largest."""
        a = array.astype(np.float64)
        step = 2.0 ** (self.smallest - self.digits + 1)
        normal = np.abs(a) >= 2.0**self.smallest
        made: np.ndarray = np.where(normal, rounded(a, self.digits), np.rint(a / step) * step)
        clipped: np.ndarray = np.clip(made, -self.largest, self.largest)
        return clipped


E4M3, E5M2 = Float8(4, 448.0, -6), Float8(3, 57344.0, -14)
"""Micikevicius et al. 2022 (arXiv 2209.05433), table 1"""


def _largest(a: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    made: np.ndarray = np.maximum(np.abs(a).max(axes, keepdims=True), 1e-30)
    return made


def _but(axis: int | None) -> Callable[[np.ndarray], tuple[int, ...]]:
    """All axes but this one."""
    return lambda a: tuple(i for i in range(a.ndim) if axis is None or i != axis % a.ndim)


def symmetric(bits: int, axis: int | None, levels: float = 0.0) -> Stored:
    """Whole numbers of so many bits times a scale: one for all, or one for each index of an axis.

    The largest magnitude becomes `levels`, 2^(bits - 1) - 1 unless given.
    """
    top, axes = 2 ** (bits - 1) - 1, _but(axis)

    def stored(a: np.ndarray) -> np.ndarray:
        scale = _largest(a, axes(a)) / (levels or top)
        made: np.ndarray = np.clip(np.rint(a / scale), -top - 1, top) * scale
        return made

    return stored


def affine(bits: int, axis: int | None) -> Stored:
    """The same with a zero point: whole numbers from the least value, or 0, to the largest."""
    axes, top = _but(axis), 2**bits - 1

    def stored(a: np.ndarray) -> np.ndarray:
        low = np.minimum(a.min(axes(a), keepdims=True), 0.0)
        high = np.maximum(a.max(axes(a), keepdims=True), 0.0)
        scale = np.maximum(high - low, 1e-30) / top
        zero = np.rint(-low / scale)
        made: np.ndarray = (np.clip(np.rint(a / scale) + zero, 0, top) - zero) * scale
        return made

    return stored


def in_groups(bits: int, size: int) -> Stored:
    """`symmetric` with a scale for each `size` numbers next to each other; arrays that do not divide stay."""

    def stored(a: np.ndarray) -> np.ndarray:
        if a.size % size:
            return a
        made: np.ndarray = symmetric(bits, 0)(a.reshape(-1, size)).reshape(a.shape)
        return made

    return stored


def scaled(form: Float8, axis: int | None) -> Stored:
    """A format of 8 bits with a scale that takes the largest magnitude to the largest number."""
    axes = _but(axis)

    def stored(a: np.ndarray) -> np.ndarray:
        scale = _largest(a, axes(a)) / form.largest
        return form(a / scale) * scale

    return stored


_AXES = {"per tensor": None, "per row": 0, "per column": -1}
FORMS: dict[str, Stored] = {
    **{name: cast_to(name) for name in FLOATING},
    **{f"int8, {where}": symmetric(8, axis) for where, axis in _AXES.items()},
    **{f"int8, {where}, to 127.5": symmetric(8, axis, 127.5) for where, axis in _AXES.items()},
    **{f"int8, {where}, to 128": symmetric(8, axis, 128.0) for where, axis in _AXES.items()},
    **{f"int8, {where}, with a zero point": affine(8, axis) for where, axis in _AXES.items()},
    **{f"int8, in groups of {n}": in_groups(8, n) for n in (32, 64, 128)},
    **{f"int4, {where}": symmetric(4, axis) for where, axis in _AXES.items()},
    **{f"int4, {where}, with a zero point": affine(4, axis) for where, axis in _AXES.items()},
    **{f"int4, in groups of {n}": in_groups(4, n) for n in (32, 64, 128)},
    "float8_e4m3": E4M3.__call__,
    "float8_e5m2": E5M2.__call__,
    **{f"float8_e4m3, scaled {where}": scaled(E4M3, axis) for where, axis in _AXES.items()},
}
"""Words -> what is read back. Rows and columns are those of the arrays as the peer stores them."""


def weights(found: Survey) -> Iterator[Candidate]:
    """Weights of linear maps, with or without the last and those that are embeddings too, or all, in each of `FORMS`.

    The likeliest set of each form comes first, the others are `rare`.
    """
    if found.partial:  # weights are stored in one way throughout
        return
    floats = {name for name, a in found.stored.items() if a.dtype.kind == "f" and a.size}
    matrices = {name for name in floats if found.stored[name].ndim > 1}

    def names(op: str, ending: str = "") -> list[str]:
        paths = [path for used in found.events if used.op == op for path in used.paths if path.endswith(ending)]
        return list(dict.fromkeys(name for path in paths if (name := found.bound.get(path, ("",))[0]) in matrices))

    linear, tables = names("linear", "weight"), set(names("take"))
    flat = [name for name in linear if found.stored[name].ndim == 2]
    parts = {
        "of all linear maps": set(flat),
        "of all linear maps but embeddings": set(flat) - tables,
        "of all linear maps but the last": set(flat[:-1]),
        "of all linear maps and convolutions of one pixel": set(linear),
        "of all matrices": matrices,
    }
    for form, stored in FORMS.items():
        seen: list[set[str]] = [set()]
        own = {"of everything": floats, **parts} if form in FLOATING else parts
        for words, chosen in own.items():
            if chosen not in seen:
                change = Change(params=found.restored(chosen, _reading(stored)).params, straight=True)
                yield Candidate("dtype", f"weights in {form}, {words}", change, len(seen) > 1)
                seen.append(chosen)


def _reading(stored: Stored) -> Stored:
    def edit(array: np.ndarray) -> np.ndarray:
        # computed in float32, as tools do: what lies so close to the middle of two numbers that it matters is rare
        made: np.ndarray = stored(np.asarray(array, np.float32)).reshape(array.shape).astype(np.float64)
        return made

    return edit


def form_of(candidate: Candidate) -> str:
    """Of a candidate of `weights` the words of `FORMS`."""
    return candidate.variant.removeprefix("weights in ").rpartition(",")[0]
