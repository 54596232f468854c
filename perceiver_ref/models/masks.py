"""Masks of what is real: checked where they come in, and kept from letting padding through."""

from __future__ import annotations

from typing import Any

from ..autograd import ops
from ..autograd.backend import Array, xp
from ..autograd.core import array_of
from ..autograd.ops.attention import MaskedRows
from ..errors import InputError


def check_mask(mask: Array, shape: tuple[int, ...], name: str) -> Array:
    """A bool mask of exactly this shape, or an `InputError` that says what came."""
    if tuple(mask.shape) != shape or mask.dtype != bool:
        came = f"{mask.dtype} of {tuple(mask.shape)}"
        raise InputError(f"{name} must be bool of shape {shape}, True = attend; got {came}")
    return mask


def finite_where_unused(inputs: Any, mask: Array, masked_rows: MaskedRows) -> Any:
    """The inputs (..., M, C), zero where they are NaN or infinite in a slot that `mask` (..., M) leaves out.

    Attention leaves such slots out, but gradients of the layers before it are products with them, and 0 * NaN is NaN.
    """
    data = array_of(inputs)
    library = xp(data)
    used = mask | ~mask.any(-1, keepdims=True) if masked_rows != "zero" else mask
    return ops.where(used[..., None] | library.isfinite(data), inputs, library.zeros((), data.dtype))
