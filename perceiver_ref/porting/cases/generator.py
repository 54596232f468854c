"""Arrays that any language can make again, bit for bit: each element from a seed, the array's name and its number.

Docs/VECTORS.md has the same in C. Element i of an array is made of 64 random bits, those of splitmix64 (Steele, Lea and
Flood 2014, "Fast splittable pseudorandom number generators") after i steps from a start of its own:

    mix(z):  z ^= z >> 30;  z *= 0xBF58476D1CE4E5B9;  z ^= z >> 27;  z *= 0x94D049BB133111EB;  z ^= z >> 31
    bits(seed, name, i) = mix(mix(seed ^ fnv1a(name)) + (i + 1) * 0x9E3779B97F4A7C15)         all modulo 2^64

Every value is a whole number of at most 8 bits times a power of 2, which all formats down to bfloat16 hold exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError, one_of, shortened
from ...host.memory import require

Spec = Mapping[str, Any]
"""How an array is made: `shape`, `kind`, what the kind needs, and `dtype` where it is not the case's."""

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_PIECE = 1 << 20
_LARGEST = 1 << 40
DTYPES = ("float64", "float32", "float16", "int64", "int32", "bool")
MOST_EXPONENT = 64


def fnv1a(name: str) -> int:
    """The 64-bit FNV-1a hash of a name in UTF-8.

    >>> hex(fnv1a("a"))
    '0xaf63dc4c8601ec8c'
    """
    made = 0xCBF29CE484222325
    for byte in name.encode():
        made = (made ^ byte) * 0x100000001B3 & _MASK
    return made


def bits(seed: int, name: str, start: int, count: int) -> np.ndarray:
    """The 64 bits of elements `start` to `start + count` of the array `name`, uint64 (count,).

    >>> [hex(b) for b in bits(0, "input/x", 0, 2).tolist()]
    ['0xaeb7bfaf5c82da6e', '0x422b656ed859ddef']
    """
    key = int(_mixed(np.array([(seed & _MASK) ^ fnv1a(name)], np.uint64))[0])
    steps = np.arange(start + 1, start + 1 + count, dtype=np.uint64)
    with np.errstate(over="ignore"):
        return _mixed(np.uint64(key) + steps * np.uint64(_GAMMA))


def _mixed(z: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        made: np.ndarray = z ^ (z >> np.uint64(31))
        return made


@dataclass(frozen=True)
class Kind:
    """A row of the table: what element i is, of its bits b, in words, and the key of the number that it needs."""

    what: str
    needs: str = ""
    default_dtype: str = ""


KINDS: dict[str, Kind] = {
    "signed": Kind("(2 (b >> 56) - 255) / 2^exponent", "exponent"),
    "scale": Kind("(64 + (b >> 57)) / 128, which is from 0.5 to 1.5"),
    "ids": Kind("b mod modulus", "modulus", "int64"),
    "one-hot": Kind("1 where its place on the last axis, of length n, is b mod n, b being that of its row's number"),
    "tags": Kind(
        "whether its place on axis 1, of length n, is a multiple of the larger of n / 2, rounded down, and 1",
        "",
        "bool",
    ),
    "constant": Kind("value", "value"),
}
"""What an array of a probe can be."""


def made(name: str, spec: Spec, seed: int, dtype: str) -> np.ndarray:
    """The array `name` ("input/x", "param/w", "cotangent/out") of this specification; `InputError` for another one.

    `dtype`: that of floating-point arrays which do not say theirs.
    """
    shape, kind, of = _checked(name, spec, dtype)
    size = math.prod(shape)
    require(f"{name} of shape {shortened(list(shape))}", 3 * size * max(np.dtype(of).itemsize, 8))
    if kind == "constant":
        return np.full(shape, spec["value"], of)
    if kind == "tags":
        places = np.arange(shape[1]) % max(shape[1] // 2, 1) == 0
        return np.array(np.broadcast_to(places.reshape(1, -1, *(1,) * (len(shape) - 2)), shape)).astype(of)
    if kind == "one-hot":
        rows = bits(seed, name, 0, size // shape[-1]) % np.uint64(shape[-1])
        ones: np.ndarray = rows[:, None] == np.arange(shape[-1], dtype=np.uint64)
        return ones.reshape(shape).astype(of)
    element = _ELEMENTS[kind](spec)
    made = np.empty(size, of)
    for start in range(0, size, _PIECE):
        made[start : start + _PIECE] = element(bits(seed, name, start, min(_PIECE, size - start)))
    return made.reshape(shape)


_ELEMENTS: dict[str, Callable[[Spec], Callable[[np.ndarray], np.ndarray]]] = {
    "signed": lambda spec: lambda b: np.ldexp(2.0 * (b >> np.uint64(56)).astype(np.float64) - 255, -spec["exponent"]),
    "scale": lambda spec: lambda b: (64 + (b >> np.uint64(57)).astype(np.float64)) / 128,
    "ids": lambda spec: lambda b: b % np.uint64(spec["modulus"]),
}


def _checked(name: str, spec: Any, dtype: str) -> tuple[tuple[int, ...], str, str]:
    if not isinstance(spec, Mapping):
        raise InputError(f"{name} must be an object, got {shortened(spec)}")
    shape, kind = check_shape(name, spec.get("shape")), spec.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise one_of(f"kind of {name}", str(kind), KINDS)
    row = KINDS[kind]
    number: Any = spec.get(row.needs) if row.needs else None
    whole = isinstance(number, int) and not isinstance(number, bool)
    limits = {"exponent": (-MOST_EXPONENT, MOST_EXPONENT), "modulus": (1, 1 << 31)}.get(row.needs)
    if limits and not (whole and limits[0] <= number <= limits[1]):
        raise InputError(f"{name}: {row.needs} must be a whole number from {limits[0]} to {limits[1]}")
    if row.needs == "value" and (not isinstance(number, (int, float)) or not abs(number) < 1e6):
        raise InputError(f"{name}: value must be a number below a million")
    if kind in ("tags", "one-hot") and len(shape) < (2 if kind == "tags" else 1):
        raise InputError(f"{name}: an array of {kind} needs more axes than {len(shape)}")
    if kind == "one-hot" and not shape[-1]:
        raise InputError(f"{name}: an array of one-hot rows needs a last axis")
    of = spec.get("dtype", row.default_dtype or dtype)
    if of not in DTYPES:
        raise one_of(f"dtype of {name}", str(of), DTYPES)
    return shape, kind, of


def check_shape(name: str, shape: Any) -> tuple[int, ...]:
    """The shape; `InputError` unless it is a list of sizes, of not too many elements."""
    if (
        not isinstance(shape, (list, tuple))
        or len(shape) > 32
        or not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= _LARGEST for n in shape)
        or math.prod(shape) > _LARGEST
    ):
        raise InputError(f"{name}: shape must be a list of sizes, got {shortened(shape)}")
    return tuple(shape)
