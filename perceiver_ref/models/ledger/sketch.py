"""Arrays that have a shape, a dtype and an owner of their memory, but no elements.

The model itself runs on them, so that what it would compute and keep is read off its own code. NumPy's functions,
called on a `Sketch`, return sketches; views know whose memory they are of, copies own theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

Shape = tuple[int, ...]
_ZERO = bytes(16)  # the one element, of any dtype


class Buffer:
    """The memory of one array, in bytes."""

    __slots__ = ("nbytes",)

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


class Sketch(np.ndarray):
    """An array without elements (one zero, repeated). `steps` are its strides, counted in elements."""

    buffer: Buffer
    steps: Shape

    def __array_finalize__(self, made_from: Any) -> None:
        self.buffer, self.steps = Buffer(self.nbytes), _contiguous(self.shape)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **keywords: Any) -> Any:
        if method != "__call__":
            raise TypeError(f"{ufunc.__name__}.{method} of arrays without elements")
        if out is not None:  # in place
            return out[0]
        dtype = _result_dtype(ufunc, *map(_kind, inputs))
        shapes = [np.shape(x) for x in inputs]
        shape = _product(*shapes) if ufunc is np.matmul else np.broadcast_shapes(*shapes)
        return sketch(shape, dtype)

    def __array_function__(self, function: Any, types: Any, arguments: Any, keywords: Any) -> Any:
        if function not in _FUNCTIONS:
            raise TypeError(f"numpy.{function.__name__} of arrays without elements")
        return _FUNCTIONS[function](*arguments, **keywords)

    def view_of(self, shape: Shape, steps: Shape) -> Sketch:
        """Another look at the same memory."""
        made = sketch(shape, self.dtype)
        made.buffer, made.steps = self.buffer, steps
        return made

    def __getitem__(self, index: Any) -> Any:
        picked = _empty(self.shape, self.dtype)[index]
        if any(isinstance(i, (np.ndarray, list)) for i in (index if isinstance(index, tuple) else (index,))):
            return sketch(picked.shape, self.dtype)
        if not isinstance(picked, np.ndarray):
            return sketch((), self.dtype)
        # a basic index is linear in the position, so that NumPy's own strides say how it steps
        probe = np.lib.stride_tricks.as_strided(np.zeros((), np.int8), self.shape, self.steps)[index]
        return self.view_of(picked.shape, tuple(probe.strides))

    def __setitem__(self, index: Any, value: Any) -> None:
        pass

    def reshape(self, *shape: Any, **_: Any) -> Any:
        wanted = _empty(self.shape, self.dtype).reshape(*shape).shape
        steps = _steps_as(self.shape, self.steps, wanted)
        return sketch(wanted, self.dtype) if steps is None else self.view_of(wanted, steps)

    def transpose(self, *axes: Any) -> Any:
        given = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        order = tuple(given) if given else tuple(reversed(range(self.ndim)))
        return self.view_of(tuple(self.shape[a] for a in order), tuple(self.steps[a] for a in order))

    def swapaxes(self, a: Any, b: Any) -> Any:
        order = list(range(self.ndim))
        order[a], order[b] = order[b], order[a]
        return self.transpose(order)

    @property
    def T(self) -> Any:  # noqa: N802 - NumPy's name
        return self.transpose()

    def copy(self, order: Any = "C") -> Any:
        return sketch(self.shape, self.dtype)

    def astype(self, dtype: Any, *_: Any, copy: bool = True, **__: Any) -> Any:  # type: ignore[override]
        return self if np.dtype(dtype) == self.dtype and not copy else sketch(self.shape, dtype)

    def take(self, indices: Any, axis: Any = None, *_: Any, **__: Any) -> Any:
        return sketch((*self.shape[:axis], *np.shape(indices), *self.shape[axis:][1:]), self.dtype)

    def _reduced(self, axis: Any = None, *_: Any, keepdims: bool = False, **__: Any) -> Any:
        gone = range(self.ndim) if axis is None else {a % self.ndim for a in np.atleast_1d(axis)}
        kept = [(1 if a in gone else n) for a, n in enumerate(self.shape) if keepdims or a not in gone]
        return sketch(tuple(kept), self.dtype)

    sum = mean = max = min = _reduced  # type: ignore[assignment]

    def any(self, axis: Any = None, *_: Any, keepdims: Any = False, **__: Any) -> Any:
        return sketch(self._reduced(axis, keepdims=keepdims).shape, bool)


def sketch(shape: Sequence[int], dtype: Any) -> Sketch:
    """A new array of this shape with memory of its own, and no elements."""
    return np.ndarray.__new__(Sketch, tuple(shape), dtype, _ZERO, strides=(0,) * len(shape))


def buffer(array: np.ndarray) -> Any:
    """The owner of an array's memory: an object with `nbytes`, the same one for all views of it."""
    while not isinstance(array, Sketch):
        if not isinstance(array.base, np.ndarray):
            return array
        array = array.base
    return array.buffer


def _empty(shape: Shape, dtype: Any) -> np.ndarray:
    return np.ndarray(shape, dtype, _ZERO, strides=(0,) * len(shape))


def _kind(value: Any) -> Any:
    """An array's dtype, a number's type."""
    return value.dtype if isinstance(value, np.ndarray) else type(value)


@lru_cache
def _result_dtype(function: Any, *kinds: Any) -> np.dtype:
    """The dtype that a NumPy function gives for arrays of these dtypes and numbers of these types."""
    one = [np.ones((1, 1), kind) if isinstance(kind, np.dtype) else kind(1) for kind in kinds]
    return np.asarray(function(*one)).dtype


def _contiguous(shape: Shape) -> Shape:
    return tuple(math.prod(shape[a + 1 :]) for a in range(len(shape)))


def _steps_as(shape: Shape, steps: Shape, wanted: Shape) -> Shape | None:
    """The strides of a reshaped view; None where no strides reach the elements in order, so that NumPy copies.

    Axes of the old and the new shape are matched in groups of equal size; a group can be seen anew when its old axes
    lie in memory as one.
    """
    old = [(n, s) for n, s in zip(shape, steps) if n != 1]
    if math.prod(shape) <= 1:
        return _contiguous(wanted)
    made: list[int] = []
    group: list[tuple[int, int]] = []
    size = seen = 1
    for n in wanted:
        if n == 1:
            made.append(0)
            continue
        if seen == size:  # the last group is complete: start another
            group, size, seen = [], 1, 1
        while size < seen * n or size % (seen * n):
            group.append(old.pop(0))
            size *= group[-1][0]
        if any(s != m * t for (_, s), (m, t) in pairwise(group)):
            return None
        seen *= n
        made.append(size // seen * group[-1][1])
    return tuple(made)


def _product(x: Shape, y: Shape) -> Shape:
    rows, columns = (x if len(x) > 1 else (1, *x)), (y if len(y) > 1 else (*y, 1))
    lead = np.broadcast_shapes(rows[:-2], columns[:-2])
    return (*lead, *rows[-2:-1][: len(x) > 1], *columns[-1:][: len(y) > 1])


def _broadcast_to(x: Any, shape: Shape, **_: Any) -> Any:
    extra = len(shape) - x.ndim
    kept = [0 if n == 1 and n != m else s for n, m, s in zip(x.shape, shape[extra:], x.steps)]
    return x.view_of(shape, (*(0,) * extra, *kept))


def _concatenate(arrays: Any, axis: int = 0, **_: Any) -> Any:
    shape = list(arrays[0].shape)
    shape[axis] = sum(x.shape[axis] for x in arrays)
    return sketch(shape, arrays[0].dtype)


def _stack(arrays: Any, axis: int = 0, **_: Any) -> Any:
    shape = list(arrays[0].shape)
    shape.insert(axis % (len(shape) + 1), len(arrays))
    return sketch(shape, arrays[0].dtype)


def _where(condition: Any, x: Any, y: Any) -> Any:
    shape = np.broadcast_shapes(*(np.shape(v) for v in (condition, x, y)))
    return sketch(shape, _result_dtype(np.where, *map(_kind, (condition, x, y))))


def _pad(x: Any, widths: Any, *_: Any, **__: Any) -> Any:
    return sketch([n + sum(w) for n, w in zip(x.shape, widths)], x.dtype)


def _like(x: Any, *arguments: Any, dtype: Any = None, shape: Any = None, **_: Any) -> Any:
    return sketch(x.shape if shape is None else shape, x.dtype if dtype is None else dtype)


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.broadcast_to: _broadcast_to,
    np.concatenate: _concatenate,
    np.stack: _stack,
    np.where: _where,
    np.pad: _pad,
    np.zeros_like: lambda x, dtype=None, **options: _like(x, dtype=dtype, **options),
    np.ones_like: lambda x, dtype=None, **options: _like(x, dtype=dtype, **options),
    np.full_like: lambda x, value, dtype=None, **options: _like(x, dtype=dtype, **options),
    np.moveaxis: lambda x, source, to: x.transpose(_moved(x.ndim, source, to)),
    np.shape: lambda x: x.shape,
    np.ndim: lambda x: x.ndim,
}


def _moved(ndim: int, source: int, to: int) -> list[int]:
    order = [a for a in range(ndim) if a != source % ndim]
    order.insert(to % ndim, source % ndim)
    return order
