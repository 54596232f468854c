"""Arithmetic of less precision than float64, done in float64: values are rounded to fewer binary digits.

The range of exponents is not that of the narrower format: what would overflow or vanish there is not modelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..autograd import ops, tree
from ..autograd.backend import is_array, xp
from ..autograd.engine import Op, handle
from ..autograd.ops.attention import scale_factor
from ..autograd.tensor import array_of
from ..autograd.tree import Tree

DIGITS = {"float32": 24, "tf32": 11, "float16": 11, "bfloat16": 8}
"""Binary digits of the significand, the leading one included. tf32 rounds only what goes into products."""

_PRODUCTS = ("linear", "matmul", "attention", "attention_weights", "convolution", "transposed_convolution")
_EXACT = ("reshape", "transpose", "broadcast_to", "getitem", "take", "concatenate", "stack", "split", "pad")


def rounded(x: Any, digits: int) -> Any:
    """float64 values to the nearest with so many binary digits (Dekker 1971, the splitting of Veltkamp)."""
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = x * (2.0 ** (53 - digits) + 1)
        near = scaled - (scaled - x)
    return xp(x).where(xp(x).isfinite(near), near, x)


def rounded_tree(values: Tree, digits: int) -> Tree:
    """Every floating-point array of a tree rounded."""
    return tree.map(lambda a: rounded(a, digits) if is_array(a) and a.dtype.kind == "f" else a, values)


@contextmanager
def arithmetic(dtype: str, rng: np.random.Generator | None = None) -> Iterator[None]:
    """Within this context every op rounds its results as arithmetic in `dtype` does, attention in each of its steps.

    With `rng` results are moved besides, by up to one unit in the last place, as another order of summation moves them.
    """
    digits = DIGITS[dtype]
    kept = 24 if dtype == "tf32" else digits

    def result(out: Any) -> Any:
        if isinstance(out, (tuple, list)):
            return type(out)(result(o) for o in out)
        data = array_of(out)
        if not is_array(data) or data.dtype.kind != "f":
            return out
        if rng is not None:
            noise = xp(data).asarray(rng.uniform(-1, 1, data.shape))
            data = data * (1 + noise * 2.0**-kept)
        return rounded(data, kept)

    def run(op: Op, arguments: tuple[Any, ...], static: dict[str, Any]) -> Any:
        if dtype == "tf32" and op.name in _PRODUCTS:
            arguments = tuple(
                rounded(a, digits) if is_array(a) and a.dtype.kind == "f" and i < 2 else a
                for i, a in enumerate(arguments)
            )
        if op.name in _EXACT:
            return op(*arguments, **static)
        if op.name == "attention":
            return _attention_in_steps(arguments, static, result, digits if dtype == "tf32" else None)
        return result(op(*arguments, **static))

    with handle(run):
        yield


def _attention_in_steps(arguments: tuple[Any, ...], static: dict[str, Any], result: Any, products: int | None) -> Any:
    """Attention whose scores, weights and mixtures are each rounded."""
    q, k, v, *rest = arguments
    bias = rest[0] if rest else None
    library = xp(q)
    s = result(q @ k.swapaxes(-1, -2) * scale_factor(q, static.get("scale")))
    if bias is not None:
        s = result(s + bias)
    mask = static.get("mask")
    if mask is not None:
        s = library.where(mask, s, -library.inf)
        empty = ~mask.any(-1, keepdims=True)
        s = library.where(empty, 0.0, s)
    weights = result(ops.softmax(s))
    if mask is not None and static.get("masked_rows", "zero") == "zero":
        weights = library.where(empty, 0.0, weights)
    if products is not None:
        weights, v = rounded(weights, products), rounded(v, products)
    if mask is not None:
        v = library.where(library.isfinite(v), v, 0.0)
    return result(weights @ v)
