"""Tensors as PyTorch prints them: `tensor([[ 1.2000e+00, ...], ...], dtype=torch.float64)`.

More than a thousand elements are shown by the first and last three of each longer axis, floating-point numbers with
four digits behind the point, unless the user said otherwise.
"""

from __future__ import annotations

import math
import re
from array import array as numbers
from typing import Any

import numpy as np

from .held import Printed, cornered

_TOKEN = re.compile(r"\[|\]|\.\.\.|[^\s,\[\]]+")
_SHAPE = re.compile(r"(?:torch\.Size\()?\[([\d,\s]*)\]\)?")
_NUMBER = re.compile(r"[-+]?(?:(\d+)(\.\d*)?(?:e([-+]?\d+))?|(nan)|(inf))", re.IGNORECASE)
_DTYPES = {
    "torch.float64": "float64",
    "torch.float32": "float32",
    "torch.float16": "float16",
    "torch.bfloat16": "bfloat16",
    "torch.int64": "int64",
    "torch.int32": "int32",
    "torch.int16": "int16",
    "torch.int8": "int8",
    "torch.uint8": "uint8",
    "torch.bool": "bool",
}
_EDGES = 64
_WORDS = {"True": 1, "False": 0}


def parse_shape(text: Any) -> tuple[int, ...]:
    """`torch.Size([2, 3])` -> (2, 3); `ValueError` for anything else."""
    found = _SHAPE.fullmatch(text.strip()) if isinstance(text, str) and len(text) < 1000 else None
    sizes = [part.strip() for part in found[1].split(",") if part.strip()] if found else []
    if found is None or len(sizes) > 32 or not all(size.isascii() and size.isdigit() for size in sizes):
        raise ValueError("no shape such as torch.Size([2, 3])")
    shape = tuple(int(size) for size in sizes)
    if any(n >= 1 << 60 for n in shape):
        raise ValueError("an impossible shape")
    return shape


def parse_dtype(text: Any) -> str:
    """`torch.float32` -> float32; `ValueError` for one whose numbers are not read."""
    if not isinstance(text, str) or text not in _DTYPES:
        raise ValueError("no dtype such as torch.float32")
    return _DTYPES[text]


def parse_tensor(text: str, shape: tuple[int, ...], dtype: str) -> Printed:
    """What the text of a tensor shows, its shape and dtype being known; `ValueError` for another text."""
    before, found, rest = text.partition("tensor(")
    if not found or before.strip() not in ("", "Parameter containing:"):
        raise ValueError("it does not begin with tensor(")
    end = _end(rest)
    given, half = numbers("d"), numbers("d")
    depth, most, elided = 0, 0, False
    for token in (found[0] for found in _TOKEN.finditer(rest, 0, end)):
        if token == "[":
            depth += 1
            most = max(most, depth)
        elif token == "]":
            depth -= 1
        elif token == "...":
            elided = True
        else:
            value, room = parse_number(token)
            given.append(value)
            half.append(room)
    if depth or (given and most != len(shape)):
        raise ValueError(f"its brackets are not those of shape {list(shape)}")
    edge = _edge(shape, len(given), elided)
    values, resolution = np.array(given), np.array(half)
    reduced = cornered(shape, edge)
    kind = np.dtype({"bfloat16": "float32", "float16": "float32"}.get(dtype, dtype))
    if kind.kind != "f":
        resolution[:] = 0.0
        if not (np.abs(values) < 2.0**53).all():
            raise ValueError("it holds no whole numbers")
    return Printed(_as(values, kind).reshape(reduced), shape, edge, resolution.reshape(reduced), dtype)


def parse_number(token: str) -> tuple[float, float]:
    """A number and half a unit of its last digit; `ValueError` for what is none."""
    if token in _WORDS:
        return _WORDS[token], 0.0
    found = _NUMBER.fullmatch(token) if len(token) < 64 else None
    if found is None:
        raise ValueError(f"{token[:20]!r} is no number")
    if found[4] or found[5]:
        return float(token), 0.0
    digits, exponent = len(found[2] or ".") - 1, int(found[3] or 0)
    if abs(exponent) > 308:
        raise ValueError(f"{token[:20]!r} is no number of a tensor")
    return float(token), 0.5 * 10.0 ** (exponent - digits)


def parse_scalar(text: Any) -> tuple[float, float] | None:
    """The number of `tensor(1.5000e+00)`; None for anything else."""
    found = re.fullmatch(r"tensor\(([^,()\s]{1,40})(?:,[^()]*)?\)", text.strip()) if isinstance(text, str) else None
    try:
        return parse_number(found[1]) if found else None
    except ValueError:
        return None


def _end(text: str) -> int:
    """Where the numbers end: behind the last bracket that closes, or at the comma or parenthesis behind a number."""
    if text.lstrip().startswith("["):
        depth = 0
        for found in re.finditer(r"[\[\]]", text):
            depth += 1 if found[0] == "[" else -1
            if depth == 0:
                return found.end()
        raise ValueError("its brackets are not closed")
    ends = [place for place in (text.find(","), text.find(")")) if place >= 0]
    if not ends:
        raise ValueError("it is cut off")
    return min(ends)


def _edge(shape: tuple[int, ...], count: int, elided: bool) -> int:
    """How many elements of each end are shown: what gives as many numbers as there are."""
    if not elided:
        if count != math.prod(shape):
            raise ValueError(f"it shows {count:,} numbers of shape {list(shape)}")
        return max(shape, default=1) or 1
    edge = next((e for e in range(1, _EDGES) if math.prod(cornered(shape, e)) == count), None)
    if edge is None or cornered(shape, edge) == shape:
        raise ValueError(f"it shows {count:,} numbers of shape {list(shape)}")
    return edge


def _as(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    with np.errstate(over="ignore"):
        return values.astype(dtype)
