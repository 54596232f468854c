"""Which array library an array belongs to, and the few calls that NumPy and CuPy spell differently.

The backend is never a setting: it is read off the arrays themselves. CuPy is imported only once an array of
its own turns up, or when it is asked for by name.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

Array = Any
"""An array of either library (`numpy.ndarray` or `cupy.ndarray`)."""

BACKENDS = ("numpy", "cupy")


class BackendError(RuntimeError):
    """An array library or its device is missing, or arrays of two libraries were mixed."""


def is_array(value: object) -> bool:
    """True for an array of either library (NumPy scalars such as `np.float32(1)` are not)."""
    return isinstance(value, np.ndarray) or _is_cupy(value)


_DTYPES = frozenset(np.dtype(code) for code in "?bBhHiIlLqQefd")
"""What is computed with, in this machine's byte order."""


def refusal(array: Array) -> str:
    """Why an array cannot be computed with, to be put after what it is called; "" for one that can."""
    if type(array) is not np.ndarray and isinstance(
        array, np.ndarray
    ):  # other subclasses only say where data comes from
        if isinstance(array, np.ma.MaskedArray):
            return "is a masked array, whose mask would be ignored; fill it first, with x.filled(value)"
        if isinstance(array, np.matrix):
            return "is a numpy.matrix, whose * is another product; convert it first, with numpy.asarray(x)"
    dtype = array.dtype
    if dtype in _DTYPES:
        return ""
    if not dtype.isnative and dtype.newbyteorder("=") in _DTYPES:
        order = "x.astype(x.dtype.newbyteorder('='))"
        return f"is {dtype.str}, in another byte order than this machine's; convert it first, with {order}"
    return f"is {_named(dtype)}; float16, float32, float64, integers and bool are computed with"


def of_base_class(array: Array) -> Array:
    """The array as a plain `numpy.ndarray` where a subclass only says where data comes from, as `numpy.memmap` does.

    One that computes in its own way, and any other value, comes back as it is.
    """
    kind = type(array)
    if kind is np.ndarray or not isinstance(array, np.ndarray):
        return array
    return np.asarray(array) if kind.__array_ufunc__ is np.ndarray.__array_ufunc__ else array


def _named(dtype: Any) -> str:
    return "of a structured dtype" if dtype.names else f"of the dtype {dtype.name}"


def as_array(value: Any) -> Any:
    """NumPy arithmetic on 0-d arrays and full reductions return scalars: make them arrays again."""
    return np.asarray(value) if isinstance(value, np.generic) else value


def xp(array: Array) -> ModuleType:
    """The library of an array: the module `numpy` or `cupy`.

    NumPy scalars count here, since arithmetic on 0-d NumPy arrays returns them.
    """
    if isinstance(array, (np.ndarray, np.generic)):
        return np
    if _is_cupy(array):
        return sys.modules["cupy"]
    raise TypeError(f"expected an array, got {type(array).__name__}; convert it first, e.g. with numpy.asarray")


def name(array: Array) -> str:
    """`"numpy"` or `"cupy"`: the name of an array's library."""
    return xp(array).__name__


def module(backend: str) -> ModuleType:
    """The array library called `backend`, ready to compute.

    Raises `BackendError` with the line that installs it, or says that no device answers.
    """
    if backend == "numpy":
        return np
    if backend != "cupy":
        raise BackendError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
    try:
        import cupy
    except ImportError as error:
        raise BackendError(
            "backend cupy needs CuPy, which is not installed; "
            "install it with: python -m pip install cupy-cuda12x (or cupy-cuda13x)"
        ) from error
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CuPy raises its own error type per driver failure
        raise BackendError(f"backend cupy found no usable GPU ({error}); use --backend numpy") from error
    if devices == 0:
        raise BackendError("backend cupy found no GPU; use --backend numpy")
    return cupy  # type: ignore[no-any-return]


def to_host(array: Array) -> np.ndarray:
    """A NumPy array with the same contents (the array itself when it is one already)."""
    return array if isinstance(array, np.ndarray) else np.asarray(array.get() if _is_cupy(array) else array)


def to_backend(array: Array, backend: str) -> Array:
    """The same contents as an array of the library called `backend`, copied only when it has to move."""
    return to_host(array) if backend == "numpy" else module(backend).asarray(array)


def recording(array: Array) -> bool:
    """Whether launches on an array's device are being recorded as a graph: nothing can be read back meanwhile."""
    return _is_cupy(array) and bool(xp(array).cuda.get_current_stream().is_capturing())


def joined(arrays: Sequence[Array], axis: int) -> Array:
    """`concatenate`. CuPy's takes a table of addresses from the host, which no recording may: there, array by array."""
    library = xp(arrays[0])
    if not recording(arrays[0]):
        return library.concatenate(arrays, axis=axis)
    shape = list(arrays[0].shape)
    shape[axis] = sum(x.shape[axis] for x in arrays)
    out, start = library.empty(shape, library.result_type(*arrays)), 0
    for x in arrays:
        index = [slice(None)] * out.ndim
        index[axis] = slice(start, start := start + x.shape[axis])
        out[tuple(index)] = x
    return out


def special(function: str, array: Array) -> Array:
    """`scipy.special.<function>` of an array (`erf`, `expit`), in its dtype; SciPy is imported on first use."""
    if _is_cupy(array):
        import cupyx.scipy.special as library
    else:
        import scipy.special as library
    return getattr(library, function)(array).astype(array.dtype, copy=False)


def peak(array: Array, axis: int) -> Array:
    """The largest element along `axis`, which stays as length 1; zeros when the axis is empty."""
    if array.shape[axis]:
        return array.max(axis, keepdims=True)
    shape = list(array.shape)
    shape[axis] = 1
    return xp(array).zeros(shape, array.dtype)


def wide(value: Any) -> Any:
    """A float16 array in float32, in which everything is computed; anything else as it is."""
    return value.astype(np.float32) if getattr(value, "dtype", None) == np.float16 else value


def rounded_to(dtype: Any, array: Array) -> Array:
    """An array in another dtype, each number the nearest: infinity, without a warning, beyond the largest."""
    with np.errstate(over="ignore"):
        return array.astype(dtype, copy=False)


def scatter_add(target: Array, index: Any, values: Array) -> None:
    """`target[index] += values` in place, where an element that `index` names twice is added to twice."""
    xp(target).add.at(target, index, values)


def _is_cupy(value: object) -> bool:
    kind = type(value)
    known = _cupy_kinds.get(kind)
    if known is None:  # asked of the type, once: the answer of an array takes microseconds
        known = kind.__module__.partition(".")[0] == "cupy" and hasattr(kind, "__cuda_array_interface__")
        _cupy_kinds[kind] = known
    return known


_cupy_kinds: dict[type, bool] = {}
