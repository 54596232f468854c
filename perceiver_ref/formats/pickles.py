"""Reading pickles of parameter trees without running them: arrays, numbers, text and containers, and nothing else.

DeepMind released its weights as pickles of NumPy trees (Haiku parameters). `opcodes` interprets them; here is
the handful of constructors that such files name, each replaced by a function of ours.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..autograd import tree
from ..errors import InputError
from ..files import AnyPath, existing_file
from .opcodes import (
    CONTAINERS,
    Bounded,
    Buildable,
    Names,
    RefusedError,
    interpret,
    mapping,
    pickle_errors,
    plain,
)

_DTYPE = re.compile(r"[<>|=]?[biuf]\d{1,2}")  # bool, integer, floating point: no objects, no text, no records
_SIZE = 1 << 40
_NAME = 1000  # characters


class _Dtype(Buildable):
    """A NumPy dtype under construction."""

    def __init__(self, code: Any, *_: Any) -> None:
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise RefusedError("a dtype that is no number's")
        self.dtype = np.dtype(code)

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise RefusedError("a malformed dtype")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(Buildable):
    """A NumPy array under construction."""

    def __init__(self, *_: Any) -> None:
        self.array: np.ndarray | None = None

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise RefusedError("a malformed array")
        _, shape, dtype, fortran, data = state
        self.array = _build(data, dtype, shape, "F" if fortran else "C")


def read_pickle(path: AnyPath) -> Any:
    """The tree in a pickle: dicts, lists and tuples of arrays, numbers, text and None.

    Raises `InputError`, one line that names the file and what it refused, for anything else; no code of the file runs.
    """
    path = existing_file(path, "a pickle of arrays")
    with pickle_errors(path, "a pickle of arrays and containers"), path.open("rb") as file:
        size = path.stat().st_size
        return plain(interpret(Bounded(file, size), size, NUMPY), _finish)


def haiku_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays by module path and name, from {module: {name: array}} or {"params": ..., "state": ...} of such."""
    content = read_pickle(path)
    if isinstance(content, dict) and set(content) <= {"params", "state"} and content:
        parts = [part for part in content.values() if isinstance(part, dict)]
        content = {name: array for part in parts for name, array in part.items()}
    _check_names(path, content)
    arrays = tree.flatten(content) if isinstance(content, dict) else {}
    if not arrays or not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise InputError(f"{path}: expected a Haiku parameter tree, arrays by module and name")
    return arrays


def _check_names(path: Path, content: Any, length: int = 0) -> None:
    """Names are joined along the way to each array: a long one above many would be copied for each."""
    if length > _NAME:
        raise InputError(f"{path}: the name of an array has more than {_NAME} characters")
    lists = enumerate(content) if isinstance(content, (list, tuple)) else ()
    for key, value in content.items() if isinstance(content, dict) else lists:
        _check_names(path, value, length + len(str(key)) + 1)


def _finish(value: Any) -> np.ndarray:
    made = value.array if isinstance(value, _Array) else value
    if not isinstance(made, np.ndarray):
        raise RefusedError("an unfinished object")
    return made


def _build(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """An array from its bytes; the sizes must agree, so that no file can claim more memory than it holds."""
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)) or order not in ("C", "F"):
        raise RefusedError("a malformed array")
    shape = (shape,) if isinstance(shape, int) else shape
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(type(n) is int and 0 <= n < _SIZE for n in shape):
        raise RefusedError("an array of impossible shape")
    if math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise RefusedError(f"an array of shape {shape} with {len(data)} bytes of data")
    values = np.frombuffer(data, dtype.dtype)
    native = dtype.dtype.newbyteorder("=")
    values = values.astype(native, copy=not values.flags.writeable)
    return values.reshape(shape, order=order)


def _scalar(dtype: Any, data: Any = b"") -> np.ndarray:
    return _build(data.encode("latin-1") if isinstance(data, str) else data, dtype, ())


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind is not _Array:
        raise RefusedError("an array of a foreign class")
    return _Array()


def _device_array(function: Any, arguments: Any, state: Any, *_: Any) -> _Array:
    if function is not _reconstruct:
        raise RefusedError("a foreign array")
    made: _Array = _reconstruct(*arguments)
    made.set_state(state)
    return made


NUMPY: Names = {
    **CONTAINERS,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("haiku._src.data_structures", "FlatMapping"): mapping,
    ("haiku._src.data_structures", "FlatMap"): mapping,
    ("haiku._src.data_structures", "frozendict"): mapping,
    ("jax._src.array", "_reconstruct_array"): _device_array,
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _build),
        )
    },
}
"""What a pickle of arrays may name, and the function here that stands for it."""
