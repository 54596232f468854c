"""NumPy's ways of writing for a `Tensor`: its methods, `x.T` and arrays as indices run the ops.

NumPy's functions refuse it, since most have no gradient here, and name the op to use. With its operators an array on
the left computes with a `Tensor` on the right, but is never written into.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .backend import is_array, to_host
from .core import Tensor, registry

OPERATORS = {
    **{
        name: name
        for name in ("add", "subtract", "multiply", "divide", "power", "matmul", "equal", "not_equal", "less")
    },
    **{name: name for name in ("less_equal", "greater", "greater_equal")},
    "true_divide": "divide",
}
"""What an array's operators call, and the op of each."""
_OPS = {"fabs": "absolute", "abs": "absolute", "square": "multiply", "dot": "matmul", "amax": "max", "clip": "maximum"}
"""Of other functions of NumPy, where the op has another name."""


def _op(name: str, *arguments: Any, **options: Any) -> Any:
    return registry[name](*arguments, **options)


def refused(what: str) -> TypeError:
    """The error for a function of NumPy, with the op to use."""
    name = what.split(".")[1]
    known = _OPS.get(name, name)
    close = [known] if known in registry else difflib.get_close_matches(name, registry, n=1, cutoff=0.6)
    hint = f": ops.{close[0]}" if close else f"; the ops are {', '.join(sorted(registry))}"
    return TypeError(f"{what} got a Tensor; use the ops, or its .data{hint}")


class _Ufuncs:
    """`__array_ufunc__`: of the class a function, which NumPy asks for; of an array None, where CuPy looks, so that its
    operators leave the operation to the `Tensor`."""

    def __get__(self, instance: Any, owner: type) -> Any:
        return None if instance is not None else _ufunc


def _ufunc(self: Tensor, ufunc: Any, method: str, *arguments: Any, **options: Any) -> Any:
    name = ufunc.__name__
    if method == "__call__" and name in OPERATORS and not options:
        return _op(OPERATORS[name], *arguments)
    if options.get("out") is not None:
        raise TypeError("a Tensor cannot be written into an array: add them, x + tensor, and use what comes of it")
    raise refused(f"numpy.{name}" if method == "__call__" else f"numpy.{name}.{method}")


def _function(self: Tensor, function: Any, types: Any, arguments: Sequence[Any], options: dict[str, Any]) -> Any:
    """`__array_function__`: all other functions of NumPy."""
    raise refused(f"numpy.{function.__name__}")


def _reduced(name: str) -> Callable[..., Any]:
    def reduce(
        x: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False, **options: Any
    ) -> Any:
        if dtype is not None or out is not None or any(value is not None for value in options.values()):
            raise TypeError(f"{name} of a Tensor takes axis and keepdims alone")
        return _op(name, x, axis=axis, keepdims=bool(keepdims) if isinstance(keepdims, (bool, int)) else False)

    reduce.__name__ = name
    reduce.__doc__ = f"`ops.{name}`."
    return reduce


def _reshape(x: Any, *shape: Any, **options: Any) -> Any:
    """`ops.reshape`: x.reshape(2, -1), or x.reshape((2, -1))."""
    given = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape or options.get("shape")
    return _op("reshape", x, shape=tuple(given) if isinstance(given, (tuple, list)) else (given,))


def _transpose(x: Any, *axes: Any) -> Any:
    """`ops.transpose`: x.transpose(), x.transpose(1, 0), x.transpose((1, 0))."""
    given = axes[0] if len(axes) == 1 and (axes[0] is None or isinstance(axes[0], (tuple, list))) else axes or None
    return _op("transpose", x, axes=None if given is None else tuple(given))


def _swapaxes(x: Any, first: int, second: int) -> Any:
    """Two axes exchanged, by `ops.transpose`."""
    order = list(range(x.ndim))
    order[first], order[second] = order[second], order[first]
    return _op("transpose", x, axes=tuple(order))


def _squeeze(x: Any, axis: Any = None) -> Any:
    """Without axes of length 1, by `ops.reshape`."""
    axes = range(x.ndim) if axis is None else [a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,))]
    dropped = {a for a in axes if x.shape[a] == 1}
    if axis is not None and len(dropped) < len(list(axes)):
        raise ValueError(f"squeeze: an axis of {tuple(x.shape)} that is not of length 1")
    return _op("reshape", x, shape=tuple(n for a, n in enumerate(x.shape) if a not in dropped))


def _astype(x: Any, dtype: Any, **_: Any) -> Any:
    """`ops.cast`."""
    return _op("cast", x, dtype=dtype)


def _dot(x: Any, y: Any) -> Any:
    """`ops.matmul`."""
    return _op("matmul", x, y)


def _item(x: Any) -> Any:
    """The one number of it, as Python's."""
    return x.data.item()


def _flat(x: Any, *_: Any) -> Any:
    """All elements on one axis, by `ops.reshape`."""
    return _op("reshape", x, shape=(-1,))


METHODS: dict[str, Callable[..., Any]] = {
    **{name: _reduced(name) for name in ("sum", "mean", "max")},
    "reshape": _reshape,
    "transpose": _transpose,
    "swapaxes": _swapaxes,
    "squeeze": _squeeze,
    "astype": _astype,
    "flatten": _flat,
    "ravel": _flat,
    "dot": _dot,
    "item": _item,
}
"""Methods of a `Tensor` by name."""


def _getitem(x: Tensor, index: Any) -> Any:
    """x[index] as NumPy has it: integers and slices, or whole-number arrays for the first axes."""
    parts = index if isinstance(index, tuple) else (index,)
    if not any(is_array(part) or isinstance(part, list) for part in parts):
        return _op("getitem", x, index=index)
    arrays = [to_host(np.asarray(part) if isinstance(part, (list, int)) else part) for part in parts if _whole(part)]
    if len(arrays) < len(parts):
        if any(is_array(part) and part.dtype.kind == "b" for part in parts):
            raise TypeError("a Tensor picked by a mask would have a shape that depends on numbers; use ops.where")
        raise TypeError("index a Tensor with slices, or with whole-number arrays alone; or use ops.take for one axis")
    if len(arrays) == 1:
        return _op("take", x, arrays[0], axis=0)
    if len(arrays) > x.ndim:
        raise IndexError(f"{len(arrays)} arrays index {x.ndim} axes")
    sizes = x.shape[: len(arrays)]
    flat: Any = 0
    for ids, size in zip(arrays, sizes):
        if ids.size and not -size <= int(ids.min()) <= int(ids.max()) < size:
            raise IndexError(f"an index from {int(ids.min())} to {int(ids.max())} is out of range for {size} entries")
        flat = flat * size + ids % max(size, 1)
    rows = _op("reshape", x, shape=(int(np.prod(sizes)), *x.shape[len(arrays) :]))
    return _op("take", rows, np.asarray(flat), axis=0)


def _whole(part: Any) -> bool:
    """Whether a part of an index is whole numbers."""
    if isinstance(part, list):
        part = np.asarray(part)
    return (is_array(part) and part.dtype.kind in "iu") or (isinstance(part, int) and not isinstance(part, bool))


def _getattr(x: Tensor, name: str) -> Any:
    if name.startswith("__") or name in ("get", "base", "device", "strides", "flags"):  # what other libraries ask for
        raise AttributeError(f"a Tensor has no attribute {name!r}")
    close = difflib.get_close_matches(name, [*METHODS, *registry], n=1, cutoff=0.5)
    hint = "" if not close else f"; did you mean {'.' if close[0] in METHODS else 'ops.'}{close[0]}?"
    known = ", ".join(sorted(METHODS))
    raise AttributeError(f"a Tensor has no attribute {name!r}{hint} Methods: {known}; for more, the functions of ops")


for _name, _method in METHODS.items():
    setattr(Tensor, _name, _method)
Tensor.T = property(_transpose, doc="All axes in reverse order.")  # type: ignore[attr-defined]
Tensor.mT = property(lambda x: _swapaxes(x, -1, -2), doc="The last two axes exchanged.")  # type: ignore[attr-defined]
Tensor.__getitem__ = _getitem  # type: ignore[method-assign]
Tensor.__getattr__ = _getattr  # type: ignore[attr-defined]
Tensor.__array_ufunc__ = _Ufuncs()  # type: ignore[assignment]
Tensor.__array_function__ = _function  # type: ignore[attr-defined]
