"""Numbers stored in 8 or 4 bits, and read back: the schemes of quantisation that deployment uses, as a table.

A form takes a weight and its axes of output channels, and gives what is read back of it: whole numbers times
scales, or numbers of a float8. Everything is computed in float32, as tools do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..rounding.arithmetic import rounded

Scheme = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
"""From an array and the axes that share a scale to what is read back."""
GROUPS = (32, 64, 128)


class Float8(NamedTuple):
    """A format of 8 bits: binary digits, the largest number, and the exponent below which the spacing stays."""

    digits: int
    largest: float
    smallest: int

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """The nearest numbers of the format, of two as near the even one; what is too large becomes the largest."""
        a = array.astype(np.float64)
        step = 2.0 ** (self.smallest - self.digits + 1)
        normal = np.abs(a) >= 2.0**self.smallest
        made: np.ndarray = np.where(normal, rounded(a, self.digits), np.rint(a / step) * step)
        clipped: np.ndarray = np.clip(made, -self.largest, self.largest)
        return clipped


E4M3, E5M2 = Float8(4, 448.0, -6), Float8(3, 57344.0, -14)
"""Micikevicius et al. 2022 (arXiv 2209.05433), table 1: e4m3fn and e5m2"""
_NF4 = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)
"""Dettmers et al. 2023 (arXiv 2305.14314), appendix E: quantiles of a normal distribution"""


def _largest(a: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    made: np.ndarray = np.maximum(np.abs(a).max(axes, keepdims=True), 1e-30)
    return made


def symmetric(bits: int, levels: float = 0.0) -> Scheme:
    """Whole numbers of so many bits times a scale: the largest magnitude becomes `levels`, 2^(bits - 1) - 1 unless
    given."""
    top = 2 ** (bits - 1) - 1

    def stored(a: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        scale = _largest(a, axes) / (levels or top)
        made: np.ndarray = np.clip(np.rint(a / scale), -top - 1, top) * scale
        return made

    return stored


def affine(bits: int) -> Scheme:
    """Whole numbers with a zero point, from the least value, or 0, to the largest, or 0."""
    top = 2**bits - 1

    def stored(a: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        low = np.minimum(a.min(axes, keepdims=True), 0.0)
        high = np.maximum(a.max(axes, keepdims=True), 0.0)
        scale = np.maximum(high - low, 1e-30) / top
        zero = np.rint(-low / scale)
        made: np.ndarray = (np.clip(np.rint(a / scale) + zero, 0, top) - zero) * scale
        return made

    return stored


def offset(bits: int) -> Scheme:
    """Whole numbers times a scale, above the least value, which is kept as it is."""
    top = 2**bits - 1

    def stored(a: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        low = a.min(axes, keepdims=True)
        scale = np.maximum(a.max(axes, keepdims=True) - low, 1e-30) / top
        made: np.ndarray = np.rint((a - low) / scale) * scale + low
        return made

    return stored


def scaled(form: Float8) -> Scheme:
    """A format of 8 bits with a scale that takes the largest magnitude to the largest number."""

    def stored(a: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        scale = _largest(a, axes) / form.largest
        return form(a / scale) * scale

    return stored


def _nf4(a: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    scale = _largest(a, axes)
    middles = (_NF4[1:] + _NF4[:-1]) / 2
    made: np.ndarray = _NF4[np.searchsorted(middles, a / scale)] * scale
    return made


def _half(scale: np.ndarray) -> np.ndarray:
    return scale.astype(np.float16).astype(np.float32)


def _q8_0(a: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """ggml's: the scale is kept in float16, numbers are made with it as it was."""
    scale = _largest(a, axes) / 127
    made: np.ndarray = np.rint(a / scale) * _half(scale)
    return made


def _q4_0(a: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """ggml's: what is largest in magnitude becomes -8, whatever its sign."""
    place = np.abs(a).argmax(axes[0], keepdims=True)
    extreme = np.take_along_axis(a, place, axes[0])
    scale = np.where(extreme == 0, np.float32(1e-30), extreme / -8)
    made: np.ndarray = (np.minimum(np.floor(a / scale + 8.5), 15) - 8) * _half(scale)
    return made


def _q4_1(a: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """ggml's: above the least value, which is in float16 as the scale is."""
    low = a.min(axes, keepdims=True)
    scale = np.maximum(a.max(axes, keepdims=True) - low, 1e-30) / 15
    made: np.ndarray = np.minimum(np.floor((a - low) / scale + 0.5), 15) * _half(scale) + _half(low)
    return made


class Form(NamedTuple):
    """A scheme and what shares a scale: the whole array ("tensor"), an output or input channel, or so many numbers next
    to each other along the inputs, of which the last may be fewer; with `whole` arrays that do not divide stay.

    None: no scales at all, the scheme is a function of the array alone.
    """

    scheme: Any
    shared: str | int | None
    whole: bool = False

    def __call__(self, array: np.ndarray, outputs: tuple[int, ...] = (0,)) -> np.ndarray:
        """What is read back of an array whose axes `outputs` are output channels."""
        with np.errstate(under="ignore", over="ignore"):
            if self.shared is None:
                made: np.ndarray = self.scheme(array)
                return made
            inputs = tuple(axis for axis in range(array.ndim) if axis not in outputs)
            order = (*outputs, *inputs)
            x = array.transpose(order)
            front = x.shape[: len(outputs)]
            matrix = x.reshape(int(np.prod(front)), -1)
            back = self._matrix(matrix).reshape(x.shape)
            back = back.transpose(np.argsort(order))
            return back

    def _matrix(self, x: np.ndarray) -> np.ndarray:
        """(outputs, inputs)"""
        if isinstance(self.shared, str):
            made: np.ndarray = self.scheme(x, {"tensor": (0, 1), "output": (1,), "input": (0,)}[self.shared])
            return made
        size: int = self.shared or 1
        short = -x.shape[1] % size
        if short and self.whole:
            return x
        padded = np.pad(x, ((0, 0), (0, short)), mode="edge")  # changes no group's largest or least
        parts = self.scheme(padded.reshape(len(x), -1, size), (2,))
        back: np.ndarray = parts.reshape(padded.shape)[:, : x.shape[1]]
        return back


def _forms() -> dict[str, Form]:
    places: dict[str, str | int] = {
        "per tensor": "tensor",
        "per output channel": "output",
        "per input channel": "input",
        **{f"in groups of {n}": n for n in GROUPS},
    }
    made: dict[str, Form] = {}
    for bits in (8, 4):
        half = 2 ** (bits - 1)
        for where, shared in places.items():
            made[f"int{bits} {where}"] = Form(symmetric(bits), shared)
            made[f"int{bits} {where} with a zero point"] = Form(affine(bits), shared)
        for where, shared in places.items():
            made[f"int{bits} {where}, to {half - 0.5:g}"] = Form(symmetric(bits, half - 0.5), shared)
            made[f"int{bits} {where}, to {half}"] = Form(symmetric(bits, half), shared)
            made[f"int{bits} {where} with an offset"] = Form(offset(bits), shared)
    for name, form in (("float8_e4m3", E4M3), ("float8_e5m2", E5M2)):
        made[name] = Form(form, None)
        made |= {f"{name} scaled {where}": Form(scaled(form), places[where]) for where in list(places)[:3]}
    made |= {f"nf4 in groups of {n}": Form(_nf4, n) for n in (64, 128)}
    schemes = {"q8_0": _q8_0, "q4_0": _q4_0, "q4_1": _q4_1}
    return made | {f"ggml's {name}": Form(scheme, 32, whole=True) for name, scheme in schemes.items()}


FORMS: dict[str, Form] = _forms()
"""Words -> form. What is next to each other along the inputs is so in the order of the array's input axes."""


def family(form: str) -> str:
    """The forms that lose about as much: those of the same bits."""
    bits = form.split()[0]
    return {"ggml's": "int8" if "q8" in form else "int4", "nf4": "int4"}.get(bits, bits)


def per_row(scheme: Scheme) -> Callable[[np.ndarray], np.ndarray]:
    """Activations with a scale for each position, found as they come."""
    return lambda x: scheme(x, (x.ndim - 1,))


def per_tensor(scheme: Scheme) -> Callable[[np.ndarray], np.ndarray]:
    """Activations with one scale, found as they come."""
    return lambda x: scheme(x, tuple(range(x.ndim)))


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "int8 per row": per_row(symmetric(8)),
    "int8 per tensor": per_tensor(symmetric(8)),
    "int8 per tensor with a zero point": per_tensor(affine(8)),
    "float8_e4m3": E4M3.__call__,
    "float8_e4m3 scaled per tensor": per_tensor(scaled(E4M3)),
    "float8_e4m3 scaled per row": per_row(scaled(E4M3)),
    "float8_e5m2": E5M2.__call__,
}
"""Words -> what goes into a linear map."""
MIXED: tuple[tuple[str, str], ...] = (
    *(("", words) for words in ACTIVATIONS),
    *(("int8 per output channel", words) for words in list(ACTIVATIONS)[:3]),
    ("int8 per tensor", "int8 per tensor"),
    ("int8 per tensor, to 127.5", "int8 per tensor with a zero point"),
    ("float8_e4m3", "float8_e4m3"),
    ("float8_e4m3 scaled per tensor", "float8_e4m3 scaled per tensor"),
    ("float8_e4m3 scaled per output channel", "float8_e4m3 scaled per row"),
    ("int4 in groups of 32", "int8 per row"),
)
"""Forms of weights ("" for weights as they are) and of activations that are used together."""
