"""Arithmetic of a narrower format: float32 as it is, with every result rounded to the format's binary digits.

Products are summed in float32, as matrix units and CPU libraries do for every narrower format. The range of exponents
is float32's but for float16's smallest numbers: what would overflow in float16 is not modelled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from ...autograd import tree
from ...autograd.backend import is_array, xp
from ...autograd.core import Op, array_of
from ...autograd.handlers import handle
from ...autograd.scoped import Setting
from ...autograd.tree import Tree
from .attention import attention
from .steps import IN_ONE, IN_STEPS, LOWEST, Rounding

DIGITS = {"float32": 24, "tf32": 11, "float16": 11, "bfloat16": 8}
"""Binary digits of the significand, the leading one included. tf32 rounds only what goes into products."""

PRODUCTS = ("linear", "matmul", "attention", "attention_weights", "convolution", "transposed_convolution")
"""Ops that multiply matrices."""
_EXACT = ("reshape", "transpose", "broadcast_to", "getitem", "take", "concatenate", "stack", "split", "pad")
MOVING = (*_EXACT, "where")
"""Ops that only move numbers."""
_SMALLEST = np.float32(2.0**-24)  # of float16, whose numbers below 2^-14 are multiples of it
_exempt: Setting[bool] = Setting("_exempt", False)
_LARGEST = 3.3895313892515355e38  # of bfloat16, which float32 has too: a mask's lowest number must stay finite


def rounded(x: Any, digits: int) -> Any:
    """float64 values to the nearest with so many binary digits (Dekker 1971, the splitting of Veltkamp)."""
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = x * (2.0 ** (53 - digits) + 1)
        near = scaled - (scaled - x)
    return xp(x).where(xp(x).isfinite(near), near, x)


def rounded_tree(values: Tree, digits: int) -> Tree:
    """Every floating-point array of a tree rounded."""
    return tree.map(lambda a: rounded(a, digits) if is_array(a) and a.dtype.kind == "f" else a, values)


def kept_digits(dtype: str) -> int:
    """The digits of what is stored: tf32 is a format of products alone."""
    return 24 if dtype == "tf32" else DIGITS[dtype]


def lowered(value: Any, dtype: str, rng: np.random.Generator | None = None) -> Any:
    """An array's values in `dtype`, held in float32; anything else as it is. Infinite ones stay, huge ones are clipped.

    With `rng` moved before by up to one unit in the last place.
    """
    data = array_of(value)
    if not is_array(data) or data.dtype.kind != "f":
        return value
    digits, library = kept_digits(dtype), xp(data)
    if data.dtype != np.float32:
        infinite = abs(data) == np.inf
        data = library.where(infinite, data, library.clip(data, -_LARGEST, _LARGEST)).astype(np.float32)
    if rng is not None:
        data = data * (1 + library.asarray(rng.random(data.shape, np.float32) * 2 - 1) * np.float32(2.0**-digits))
    near = _cut(data, digits)
    if dtype == "float16":
        small = abs(data) < 2.0**-14
        near = library.where(small, library.rint(library.where(small, data, 0) / _SMALLEST) * _SMALLEST, near)
    return near


def _cut(x: Any, digits: int) -> Any:
    """float32 values to the nearest with so many digits, of two as near the even one; on the bits of the numbers."""
    if digits == 24:
        return x
    dropped = 24 - digits
    bits = x.view(np.uint32)
    half = (bits >> dropped & 1) + np.uint32((1 << (dropped - 1)) - 1)
    return ((bits + half) & np.uint32((1 << 32) - (1 << dropped))).view(np.float32)


@contextmanager
def arithmetic(dtype: str, rng: np.random.Generator | None = None, *, steps: bool = False) -> Iterator[None]:
    """Within this context every op computes in float32 and rounds its results to `dtype`, attention each of its steps.

    With `rng` sums run in another order, and results are moved by up to one unit in the last place besides, as other
    implementations of a function do. With `steps` norms, activations and biases too are rounded step by step, as where
    they are written out and not one fused operation.
    """

    made: WeakValueDictionary[int, Any] = WeakValueDictionary()

    def noted(out: Any) -> Any:
        for array in out if isinstance(out, (list, tuple)) else (out,):
            if is_array(array):
                made[id(array)] = array
        return out

    def result(out: Any) -> Any:
        return type(out)(map(result, out)) if isinstance(out, (list, tuple)) else noted(lowered(out, dtype, rng))

    def narrow(value: Any) -> Any:
        # what is computed between ops, on plain arrays, is rounded here; results of ops are in the format already
        if isinstance(value, (list, tuple)):
            return type(value)(map(narrow, value))
        return value if made.get(id(value)) is value else lowered(value, dtype)

    def factor(value: Any) -> Any:
        return _cut(array_of(value), DIGITS["tf32"]) if dtype == "tf32" and is_array(array_of(value)) else value

    def run(op: Op, arguments: tuple[Any, ...], static: dict[str, Any]) -> Any:
        if _exempt.get():
            return op(*arguments, **static)
        arguments = tuple(map(narrow, arguments))
        if op.name in _EXACT:
            return noted(op(*arguments, **static))
        if op.name in PRODUCTS:
            arguments = tuple(factor(a) if i < 2 else a for i, a in enumerate(arguments))
        with np.errstate(all="ignore"):
            if op.name == "attention":
                return attention(to, arguments, static, scaled_first=steps)
            if steps and op.name in IN_STEPS:
                return IN_STEPS[op.name](to, *arguments, **static)
            if rng is not None and op.name in IN_ONE:
                return result(IN_ONE[op.name](rng, op, arguments, static))
            return result(op(*arguments, **static))

    to = Rounding(result, factor, rng, steps, LOWEST.get(dtype))
    with handle(run):
        yield


@contextmanager
def exempt() -> Iterator[None]:
    """Within this context, inside of `arithmetic`, ops compute in the dtype that their arguments have."""
    with _exempt.entered(True):
        yield


def apart(original: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """In the place of a function: the same, `exempt`."""
    with exempt():
        return original(*arguments, **options)


def is_exempt() -> bool:
    """Whether ops compute in the dtype that their arguments have, whatever is around."""
    return _exempt.get()


__all__ = [
    "DIGITS",
    "MOVING",
    "PRODUCTS",
    "apart",
    "arithmetic",
    "exempt",
    "is_exempt",
    "kept_digits",
    "lowered",
    "rounded",
    "rounded_tree",
]
