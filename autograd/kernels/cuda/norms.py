"""Layer and root-mean-square normalisation, one block a row, which stays in registers.

Traffic: forward reads x and writes y (and `unit`, where a gradient will be needed); backward reads g and `unit`
and writes dx, and the sums over rows, which leave it in one part a block, cost a few per cent more.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ...backend import Array
from ...core import Added, Sum
from ...ops.normalise import layer_norm, rms_norm
from .launch import LONGEST, WORTH, column_totals, contiguous, fits, function, threads_of_row
from .norms_source import SOURCE

_THREADS = 132 * 1024  # of a launch that walks over rows: half of what an H100 holds


def layer_norm_forward(
    x: Array, scale: Array, offset: Array, *, eps: float = 1e-5, needs: tuple[bool, ...] = (True, True, True)
) -> Any:
    """As `ops.normalise.layer_norm`; no residuals where no gradient is needed."""
    if not _suits(x, scale, offset, parameters=2):
        return NotImplemented
    return _forward(x, scale, offset, eps, any(needs[:2]))


def layer_norm_backward(
    g: Array,
    unit: Array,
    inverse_std: Array,
    scale: Array,
    needs: tuple[bool, ...],
    onto: tuple[Sum | None, ...] = (None, None, None),
) -> Any:
    """As the backward rule of `ops.normalise.layer_norm`, with the gradients of scale and offset summed.

    All are added to what has arrived before: x's has that of the residual beside the norm.
    """
    if unit is None:  # only the offset's was needed
        return None, None, g
    if not _suits(g, unit, scale, parameters=1):
        return layer_norm.definition.backward(g, unit, inverse_std, scale, needs=needs)
    return _backward(g, unit, inverse_std, scale, needs[0], any(needs[1:]), onto)


def rms_norm_forward(x: Array, scale: Array, *, eps: float = 1e-6, needs: tuple[bool, ...] = (True, True)) -> Any:
    """As `ops.normalise.rms_norm`; no residuals where no gradient is needed."""
    if not _suits(x, scale, parameters=1):
        return NotImplemented
    return _forward(x, scale, None, eps, any(needs))


def rms_norm_backward(
    g: Array,
    unit: Array,
    inverse: Array,
    scale: Array,
    needs: tuple[bool, ...],
    onto: tuple[Sum | None, ...] = (None, None),
) -> Any:
    """As the backward rule of `ops.normalise.rms_norm`; what has arrived before is added, as in layer norm."""
    if not _suits(g, unit, scale, parameters=1):
        return rms_norm.definition.backward(g, unit, inverse, scale, needs=needs)
    return _backward(g, unit, inverse, scale, needs[0], needs[1], onto)


def _suits(x: Array, *others: Array, parameters: int) -> bool:
    """Whether the kernels are made for these: arrays of x's shape, and `parameters` last ones of a row's."""
    if not (x.ndim and fits(x, *others) and x.shape[-1] <= LONGEST):
        return False
    rows, columns = others[:-parameters], others[-parameters:]
    return all(o.shape == x.shape for o in rows) and all(o.shape == x.shape[-1:] for o in columns)


def _forward(x: Array, scale: Array, offset: Array | None, eps: float, kept: bool) -> Any:
    import cupy

    x, width = contiguous(x), x.shape[-1]
    rows = x.size // width
    y, unit, inverse = cupy.empty(x.shape, x.dtype), None, None
    if kept:
        unit, inverse = cupy.empty(x.shape, x.dtype), cupy.empty((*x.shape[:-1], 1), x.dtype)
    arguments = (x, contiguous(scale), offset if offset is None else contiguous(offset), y, unit, inverse)
    _kernel("forward", width, arguments)(
        (rows,), (threads_of_row(width),), (*_pointers(arguments), width, float(eps), int(offset is not None))
    )
    again = partial(_affine, *arguments[1:3], unit) if unit is not None and unit.nbytes >= WORTH else None
    return y, (unit, inverse, scale), again


def _affine(scale: Array, offset: Array | None, unit: Array) -> Array:
    """unit scale + offset, with the bits of the forward kernel."""
    import cupy

    y, width = cupy.empty(unit.shape, unit.dtype), unit.shape[-1]
    arguments = (unit, scale, offset, y)
    launch = _kernel("affine", width, arguments)
    launch((unit.size // width,), (threads_of_row(width),), (*_pointers(arguments), width))
    return y


def _backward(
    g: Array,
    unit: Array,
    inverse: Array,
    scale: Array,
    needs_x: bool,
    needs_sums: bool,
    onto: tuple[Sum | None, ...],
) -> Any:
    """The gradients of x, scale and, where `onto` has a third, offset."""
    import cupy

    centred, there = len(onto) > 2, onto[0] if needs_x else None

    g, width, threads = contiguous(g), g.shape[-1], threads_of_row(g.shape[-1])
    rows = g.size // width
    blocks = min(-(-rows // 4), _THREADS // threads)
    before = None if there is None else contiguous(there.array)
    dx = before if there is not None and (there.own or before is not there.array) else None
    dx = cupy.empty(g.shape, g.dtype) if needs_x and dx is None else dx
    parts = cupy.empty((blocks, (1 + centred) * width), g.dtype) if needs_sums else None
    arguments = (g, contiguous(unit), contiguous(inverse), contiguous(scale), before, dx, parts)
    _kernel("backward", width, arguments)((blocks,), (threads,), (*_pointers(arguments), rows, width, int(centred)))
    sums = [None] * (len(onto) - 1) if parts is None else column_totals(parts, *onto[1:])
    return Added((dx, *sums))


def _kernel(name: str, width: int, arrays: tuple[Array | None, ...]) -> Any:
    """The kernel of this name that is for such rows: by fours, where all of them lie so."""
    addresses = 4 * width  # a multiple of 16 where width is one of 4
    for array in arrays:
        if array is not None:
            addresses |= array.data.ptr
    return function(SOURCE, name if addresses % 16 else f"{name}_4", arrays[0].dtype.char)  # type: ignore[union-attr]


def _pointers(arrays: tuple[Array | None, ...]) -> tuple[Any, ...]:
    """Arguments of a launch, with null pointers for None."""
    return tuple(0 if array is None else array for array in arrays)
