"""Masks as PyTorch's functions take them: what broadcasts, and rows that have no key."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..autograd import ops
from ..autograd.backend import Array, xp
from ..autograd.core import array_of
from ..errors import InputError


def spoilt(mask: Any, bias: Any, dtype: Any) -> tuple[Any, Any]:
    """The same with NaN to add in rows that have no key: what PyTorch's softmax makes of them where maps are asked for.

    Without maps its fused attention gives zeros.
    """
    if mask is None and bias is None:
        return mask, bias
    library = xp(array_of(bias) if mask is None else mask)
    attend: Any = True if bias is None else ~library.isneginf(array_of(bias))
    empty = ~(attend if mask is None else mask & attend).any(-1, keepdims=True)
    if not empty.any():
        return mask, bias
    keys = array_of(bias if mask is None else mask).shape[-1]
    lost = library.where(empty, library.asarray(math.nan, dtype), library.zeros(keys, dtype))
    return None if mask is None else mask | empty, lost if bias is None else ops.add(bias, lost)


def check_broadcast(name: str, mask: Any, shape: tuple[int, ...], axes: str) -> None:
    """`InputError` unless a mask broadcasts to the scores, whose `axes` are named."""
    try:
        fits = np.broadcast_shapes(tuple(mask.shape), shape) == shape and len(mask.shape) > 0
    except ValueError:
        fits = False
    if not fits:
        raise InputError(f"{name} must broadcast to ({axes}) = {shape}, got {tuple(mask.shape)}")


def fused(name: str, mask: Any, shape: tuple[int, ...], axes: str) -> dict[str, Any]:
    """A mask of `scaled_dot_product_attention`, as `Attention.apply` takes it: bools say what to attend to, floats are
    added; `InputError` for whole numbers."""
    check_broadcast(name, mask, shape, axes)
    data: Array = array_of(mask)
    if data.dtype == bool:
        return {"head_mask": data}
    if data.dtype.kind != "f":
        raise InputError(
            f"{name} must be bool (True = attend) or floating point (added to the scores), got {data.dtype}"
        )
    return {"bias": mask}


def masked_out(name: str, mask: Any, dtype: Any) -> dict[str, Any]:
    """A mask of `torch.nn.MultiheadAttention` (..., H or 1, N, M), as `Attention.apply` takes it: True leaves out, and
    floats are added. Rows that have no key are NaN there."""
    data: Array = array_of(mask)
    if data.dtype != bool and data.dtype.kind != "f":
        raise InputError(
            f"{name} must be bool (True = masked) or floating point (added to the scores), got {data.dtype}"
        )
    attend, bias = (~data, None) if data.dtype == bool else (None, mask)
    attend, bias = spoilt(attend, bias, dtype)
    return {"head_mask": attend, "bias": bias}
