"""Reading pickles of parameter trees without running them: arrays, numbers, text and containers, and nothing else.

DeepMind released its weights as pickles of NumPy trees (Haiku parameters); others save JAX's arrays, beside the states
of optimizers. `opcodes` interprets them; here is the handful of constructors that such files name, each replaced by a
function of ours.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...host.files import AnyPath, existing_file
from .dtypes import WIDENED, decoded, stored
from .foreign import Foreign, RefusedError, first_foreign
from .opcodes import CONTAINERS, Bounded, Buildable, Names, interpret, mapping, pickle_errors, plain
from .state_dict import Found, find_tree

_DTYPE = re.compile(r"[<>|=]?[biuf]\d{1,2}")  # bool, integer, floating point: no objects, no text, no records
_SIZE = 1 << 40
_NAME = 1000  # characters
_WHAT = "a pickle of arrays and containers"


class _Scalar:
    """A class of numbers that `ml_dtypes` adds to NumPy, which a dtype is made of."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


class _Dtype(Buildable):
    """A NumPy dtype under construction; `kind` names one that NumPy lacks, whose bits `dtype` is."""

    def __init__(self, code: Any, *_: Any) -> None:
        code = code.decode("ascii") if isinstance(code, bytes) else code
        self.kind = code.kind if isinstance(code, _Scalar) else ""
        if self.kind:
            self.dtype = stored(self.kind)
            return
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
        self.array: np.ndarray | None = None  # until it is given its state

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
    with pickle_errors(path, _WHAT):
        content = _interpreted(path)
        if foreign := first_foreign(content):
            raise RefusedError(foreign.why)
        return content


def read_haiku(path: Path, key: str | None = None) -> Found:
    """Arrays by module path and name, from {module: {name: array}} or {"params": ..., "state": ...} of such.

    What is beside the parameters, such as an optimizer's state, is not looked at; `key` says where they are.
    """
    path = existing_file(path, "a pickle of arrays")
    with pickle_errors(path, _WHAT):
        content = _interpreted(path)
        _check_names(path, content)
        found = find_tree(path, content, key)
    if not found.arrays:
        raise InputError(f"{path}: expected a Haiku parameter tree, arrays by module and name")
    return found


def _interpreted(path: Path) -> Any:
    with path.open("rb") as file:
        size = path.stat().st_size
        return plain(interpret(Bounded(file, size), size, NUMPY), _finish)


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
        raise RefusedError((value.refused if isinstance(value, Buildable) else "") or "an unfinished object")
    return made


def _build(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """An array from its bytes; the sizes must agree, so that no file can claim more memory than it holds."""
    if isinstance(dtype, Foreign):
        raise RefusedError(dtype.why)
    if isinstance(dtype, Buildable) and dtype.refused:
        raise RefusedError(dtype.refused)
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
    return decoded(values, dtype.kind).reshape(shape, order=order)


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
    made.set_state(state)  # what follows it, such as whether its dtype is weak, is left out
    return made


NUMPY: Names = {
    **CONTAINERS,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("haiku._src.data_structures", "FlatMapping"): mapping,
    ("haiku._src.data_structures", "FlatMap"): mapping,
    ("haiku._src.data_structures", "frozendict"): mapping,
    ("flax.core.frozen_dict", "FrozenDict"): mapping,
    ("jax._src.array", "_reconstruct_array"): _device_array,
    ("jax._src.device_array", "reconstruct_device_array"): _device_array,
    ("jax.interpreters.xla", "reconstruct_device_array"): _device_array,
    **{(module, name): _Scalar(name) for module in ("ml_dtypes", "jaxlib.xla_extension") for name in sorted(WIDENED)},
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
