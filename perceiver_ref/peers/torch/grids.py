"""PyTorch's convolutions, pools and `unfold`: channels are the second axis, the batch may be missing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.core import array_of
from ...autograd.ops.convolution import largest_of_windows
from ...errors import InputError
from ..base import REQUIRED, Outputs
from .function import Sizes, function, sizes

Values = dict[str, Any]


def _last(x: Any) -> Any:
    """(B, C, *grid) -> (B, *grid, C)."""
    return ops.transpose(x, axes=(0, *range(2, len(x.shape)), 1))


def _second(x: Any) -> Any:
    """(B, *grid, C) -> (B, C, *grid)."""
    axes = len(x.shape)
    return ops.transpose(x, axes=(0, axes - 1, *range(1, axes - 1)))


def _batched(axes: int, compute: Callable[[Any], Any], x: Any) -> Any:
    """`compute` of x (B, *grid, C); x comes and goes with channels second, and with or without a batch."""
    if len(x.shape) not in (axes + 1, axes + 2):
        raise InputError(f"the input must be (batch, channels, {axes} axes), got {tuple(x.shape)}")
    if len(x.shape) == axes + 1:
        return _batched(axes, compute, x[None])[0]
    return _second(compute(_last(x)))


def _convolution(axes: int) -> Callable[[Values, Values], Outputs]:
    def compute(given: Values, o: Values) -> Outputs:
        kernel = tuple(given["weight"].shape[2:])
        strides, dilation = (sizes(name, o[name], axes, 1) for name in ("stride", "dilation"))
        if o["padding"] == "same":
            totals = [d * (k - 1) for d, k in zip(dilation, kernel)]
            padding = tuple((total // 2, total - total // 2) for total in totals)
        else:
            each = 0 if o["padding"] == "valid" else o["padding"]
            padding = tuple((p, p) for p in sizes("padding", each, axes, 0))
        return {"out": _convolved(given, axes, strides, padding, dilation, o["groups"])}

    return compute


def _same_padding(given: Values, o: Values) -> Outputs:
    """transformers' `Conv2dSamePadding`: padded by the kernel alone, whatever the stride; an odd element at the end."""
    kernel = tuple(given["weight"].shape[2:])
    strides, dilation = (sizes(name, o[name], 2, 1) for name in ("stride", "dilation"))
    padding = tuple((k // 2 + k % 2 - 1, k // 2) for k in kernel)
    return {"out": _convolved(given, 2, strides, padding, dilation, o["groups"])}


def _convolved(given: Values, axes: int, strides: Sizes, padding: Any, dilation: Sizes, groups: int) -> Any:
    weight = ops.transpose(given["weight"], axes=(*range(2, axes + 2), 1, 0))
    options = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    return _batched(axes, lambda x: _biased(ops.convolution(x, weight, **options), given["bias"]), given["input"])


def _transposed(axes: int) -> Callable[[Values, Values], Outputs]:
    def compute(given: Values, o: Values) -> Outputs:
        strides, dilation = (sizes(name, o[name], axes, 1) for name in ("stride", "dilation"))
        around, extra = (sizes(name, o[name], axes, 0) for name in ("padding", "output_padding"))
        theirs, groups = given["weight"], o["groups"]  # (C, E / groups, *kernel)
        inputs, outputs, *kernel = theirs.shape
        parts = ops.reshape(theirs, shape=(groups, inputs // groups, outputs, *kernel))
        ordered = ops.transpose(parts, axes=(*range(3, axes + 3), 1, 0, 2))  # (*kernel, C / groups, groups, E / groups)
        weight = ops.reshape(ordered, shape=(*kernel, inputs // groups, groups * outputs))
        options = {"strides": strides, "dilation": dilation, "groups": groups}
        options["padding"] = tuple((p, p - more) for p, more in zip(around, extra))

        def spread(x: Any) -> Any:
            return _biased(ops.transposed_convolution(x, weight, **options), given["bias"])

        return {"out": _batched(axes, spread, given["input"])}

    return compute


def _biased(x: Any, bias: Any) -> Any:
    return x if bias is None else ops.add(x, bias)


def _windows(o: Values, axes: int, grid: Sizes) -> tuple[Sizes, Sizes, Sizes, Sizes, tuple[tuple[int, int], ...]]:
    """(kernel, strides, dilation, outputs, padding) of a pool; with `ceil_mode` a last window may stick out.

    It must start inside the input or the padding before it.
    """
    kernel = sizes("kernel_size", o["kernel_size"], axes)
    strides = sizes("stride", o["stride"] or None, axes) if o["stride"] else kernel
    dilation, around = sizes("dilation", o.get("dilation"), axes, 1), sizes("padding", o["padding"], axes, 0)
    outputs, padding = [], []
    for n, k, s, d, p in zip(grid, kernel, strides, dilation, around):
        reach = d * (k - 1) + 1
        count = (n + 2 * p - reach + (s - 1 if o["ceil_mode"] else 0)) // s + 1
        if o["ceil_mode"] and (count - 1) * s >= n + p:
            count -= 1
        outputs.append(count)
        padding.append((p, max((count - 1) * s + reach - n - p, 0)))
    return kernel, strides, dilation, tuple(outputs), tuple(padding)


def _max_pool(axes: int) -> Callable[[Values, Values], Outputs]:
    """With the place of each maximum in the flattened grid."""

    def compute(given: Values, o: Values) -> Outputs:
        x = given["input"]
        grid = tuple(x.shape[len(x.shape) - axes :])
        kernel, strides, dilation, outputs, padding = _windows(o, axes, grid)
        options: Values = {"strides": strides, "padding": padding, "dilation": dilation}

        def places(x: Any) -> Any:
            _, winner = largest_of_windows(array_of(x), kernel, **options)
            offsets = xp(winner).unravel_index(winner, kernel)
            place: Any = 0
            for axis, (n, s, d, (before, _)) in enumerate(zip(grid, strides, dilation, padding)):
                start = xp(winner).arange(outputs[axis]) * s - before
                shape = [-1 if a == axis + 1 else 1 for a in range(axes + 2)]
                place = place * n + start.reshape(shape) + offsets[axis] * d
            return place

        return {
            "out": _batched(axes, lambda x: ops.max_pool(x, window=kernel, **options), x),
            "indices": _batched(axes, places, array_of(x)),
        }

    return compute


def _average_pool(axes: int) -> Callable[[Values, Values], Outputs]:
    """Sums over windows, as a convolution of every channel by itself, over the number of elements in them."""

    def compute(given: Values, o: Values) -> Outputs:
        x = given["input"]
        grid = tuple(x.shape[len(x.shape) - axes :])
        kernel, strides, _, outputs, padding = _windows(o, axes, grid)
        data = array_of(x)
        ones = xp(data).ones((*kernel, 1, 1), data.dtype)
        lead = tuple(x.shape[: len(x.shape) - axes])
        rows = ops.reshape(x, shape=(math.prod(lead), *grid, 1))
        sums = ops.convolution(rows, ones, strides=strides, padding=padding)
        counts = np.ones((1,) * axes)
        for axis in range(axes):
            n, k, (before, _) = grid[axis], kernel[axis], padding[axis]
            start = np.arange(outputs[axis]) * strides[axis] - before
            end = np.minimum(start + k, n + before)
            if not o["count_include_pad"]:
                start, end = np.maximum(start, 0), np.minimum(end, n)
            counts = counts * (end - start).reshape([-1 if a == axis else 1 for a in range(axes)])
        if o["divisor_override"] is not None:
            counts = np.full(counts.shape, o["divisor_override"])
        means = ops.divide(sums, xp(data).asarray(counts[..., None], data.dtype))
        return {"out": ops.reshape(means, shape=(*lead, *outputs))}

    return compute


def _unfold(given: Values, o: Values) -> Outputs:
    """Every window as a column: (B, C, H, W) -> (B, C * kernel, windows), both row-major."""
    x = given["input"]
    if len(x.shape) == 3:
        return {"out": _unfold({"input": x[None]}, o)["out"][0]}
    kernel = sizes("kernel_size", o["kernel_size"], 2)
    strides, dilation = (sizes(name, o[name], 2, 1) for name in ("stride", "dilation"))
    around = sizes("padding", o["padding"], 2, 0)
    padded = ops.pad(x, widths=((0, 0), (0, 0), *((p, p) for p in around)))
    counts = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(padded.shape[2:], kernel, strides, dilation)]
    pieces = []
    for offset in itertools.product(*(range(k) for k in kernel)):
        cut = (slice(q * d, q * d + (n - 1) * s + 1, s) for q, d, n, s in zip(offset, dilation, counts, strides))
        pieces.append(ops.getitem(padded, index=(slice(None), slice(None), *cut)))
    columns = ops.stack(pieces, axis=2)  # (B, C, kernel, H', W')
    return {"out": ops.reshape(columns, shape=(x.shape[0], x.shape[1] * math.prod(kernel), math.prod(counts)))}


_SPACING: dict[str, Any] = {"stride": None, "padding": None}
_FILTER = {**_SPACING, "dilation": None, "groups": 1}
_POOL = {"kernel_size": REQUIRED, **_SPACING, "ceil_mode": False}
_AVERAGE = {**_POOL, "count_include_pad": True, "divisor_override": None}
_ARRAYS = ("input", "weight")

GRIDS = {
    **{f"conv{n}d": function(_convolution(n), _ARRAYS, ("bias",), **_FILTER) for n in (1, 2, 3)},
    **{
        f"conv_transpose{n}d": function(_transposed(n), _ARRAYS, ("bias",), **_FILTER, output_padding=None)
        for n in (1, 2, 3)
    },
    "Conv2dSamePadding": function(_same_padding, _ARRAYS, ("bias",), stride=None, dilation=None, groups=1),
    **{
        f"max_pool{n}d": function(_max_pool(n), ("input",), **_POOL, dilation=None, return_indices=False)
        for n in (1, 2, 3)
    },
    **{f"avg_pool{n}d": function(_average_pool(n), ("input",), **_AVERAGE) for n in (1, 2, 3)},
    "unfold": function(_unfold, ("input",), kernel_size=REQUIRED, **_SPACING, dilation=None),
}
