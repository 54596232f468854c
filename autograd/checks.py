"""What every op checks before and after it runs, and the words of its errors; nothing here computes.

Python numbers and NumPy scalars take the dtype of the arrays beside them, and so do integers and bools that it can
hold; other mixtures of dtypes, and mixed libraries, are errors. Where results are fractions (exp, mean, softmax),
integers and bools alone get the floating-point dtype that `numpy.exp` gives them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from . import half
from .backend import Array, BackendError, as_array, is_array, name, of_base_class, refusal, xp
from .half import Numbers

MIXED = "dtypes are mixed"
FIRST_ORDER = "only first-order gradients are supported, so value_and_grad and vjp do not nest"
_NUMBERS = (bool, int, float)
_FLOATS = _SINGLE, _DOUBLE, _ = tuple(np.dtype(code) for code in "fde")


@dataclass(frozen=True)
class Traits:
    """What an op's arguments may be.

    `variadic`: its callers pass one sequence of arrays. `numbers`: what it does with float16, see `half.Numbers`.
    `floats`: its values are floating-point, so that integers and bools are made so first. `scalars`: its arguments may
    be numbers. `labels`: the array parameters that hold no values, but indices, classes or conditions.
    """

    variadic: bool = False
    numbers: Numbers = "computed"
    floats: bool = False
    scalars: bool = False
    labels: tuple[str, ...] = ()


class Op(Protocol):
    """What this file needs of a `core.Op`."""

    name: str
    traits: Traits
    arrays: list[str]
    defaults: dict[str, Any]
    differentiable: bool


def describe(value: Any) -> str:
    """A value as errors show it: `float32[2, 3]` for an array, otherwise its text."""
    return f"{value.dtype}{list(value.shape)}" if is_array(value) else repr(value)


def signature(op: Op, arrays: Sequence[Any]) -> str:
    """A call as errors show it: `add(float32[2, 3], 1.0)`."""
    return f"{op.name}({', '.join(map(describe, arrays))})"


def bound(op: Op, arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arrays in order, those given by keyword too, and the options; `TypeError` for what the op does not have."""
    if op.traits.variadic:
        if len(arguments) != 1:
            raise TypeError(f"{op.name} takes one sequence of arrays, got {len(arguments)} arguments")
        arguments = tuple(arguments[0])
    named = [key for key in options if key not in op.defaults]
    if named:
        if op.traits.variadic or any(key not in op.arrays[len(arguments) :] for key in named):
            known = ", ".join([*op.arrays, *op.defaults])
            raise TypeError(f"{op.name} got an unexpected argument {named[0]!r}; its arguments are: {known}")
        options = dict(options)
        given = [*arguments, *(options.pop(key, None) for key in op.arrays[len(arguments) :])]
        while given and given[-1] is None:
            given.pop()
        arguments = tuple(given)
    made = {key: _usable(op, v, key) if isinstance(v, np.ndarray) else v for key, v in options.items()}
    return arguments, made


def arrays(op: Op, given: list[Any]) -> tuple[list[Any], str, bool]:
    """The arguments as arrays (and None or Python numbers) of one library, its name, and whether one is float16."""
    found = False
    for value in given:  # what nearly all calls are given
        if type(value) is np.ndarray and (value.dtype is _SINGLE or value.dtype is _DOUBLE):
            found = True
        elif value is not None and type(value) is not float:
            break
    else:
        if found:
            return given, "numpy", False
    backend, others = None, bool(op.traits.labels)
    for i, value in enumerate(given):
        if value is None or type(value) in _NUMBERS:
            continue
        if isinstance(value, np.generic):
            others = True
            continue
        if not is_array(value):
            raise TypeError(f"{op.name} needs arrays, got {type(value).__name__} as argument {i + 1}")
        library = name(value)
        if value.dtype not in _FLOATS or (library == "numpy" and type(value) is not np.ndarray):
            given[i] = value = _usable(op, value, f"argument {i + 1}")
            others = True
        if library == "cupy" and min(value.strides, default=0) < 0:
            given[i] = value.copy()  # CuPy's batched matrix product fails on negative strides
        if backend is None:
            backend = library
        elif library != backend and value.dtype.kind == "f":
            raise BackendError(f"{signature(op, given)}: arrays of numpy and cupy are mixed; move one first")
    if others:
        _convert(op, given, backend or "numpy")
    if backend is None and not any(is_array(value) for value in given):
        first = next((i for i, value in enumerate(given) if value is not None), None)
        if first is None:
            raise TypeError(f"{op.name} needs at least one array")
        given[first] = np.asarray(given[first], float)
    return given, backend or "numpy", half.among(given)


def _usable(op: Op, value: Array, what: str) -> Array:
    """The array, as `of_base_class` has it; `TypeError` where it cannot be computed with."""
    if reason := refusal(value):
        raise TypeError(f"{op.name}: {what} {reason}")
    return of_base_class(value)


def _convert(op: Op, given: list[Any], backend: str) -> None:
    """Make what is no floating-point array one where an array is needed: scalars, integers and bools."""
    library = xp(np.empty(())) if backend == "numpy" else sys.modules[backend]
    labels = {op.arrays.index(label) for label in op.traits.labels}
    values = [v for i, v in enumerate(given) if i not in labels and is_array(v)]
    dtype = next((v.dtype for v in values if v.dtype.kind == "f"), None)
    for i, value in enumerate(given):
        label, scalar = i in labels, isinstance(value, np.generic)
        if scalar:
            _usable(op, np.asarray(value), f"argument {i + 1}")
        if label and (scalar or type(value) is bool):
            given[i] = library.asarray(value)
        elif (
            scalar and op.traits.scalars and values
        ):  # takes the dtype of the arrays beside it, as a Python number does
            given[i] = value.item()
        elif scalar:
            given[i] = library.asarray(value.item() if dtype else value, dtype)
            values.append(given[i])
            dtype = dtype or (given[i].dtype if given[i].dtype.kind == "f" else None)
    whole = [v.dtype for v in values if v.dtype.kind in "biu"]
    if not whole or not (op.traits.floats or (dtype and op.differentiable)):
        return
    target = np.result_type(*whole, dtype or np.float16)
    if dtype and target != dtype:
        raise TypeError(_mixed(op, given))
    for i, value in enumerate(given):
        if i not in labels and is_array(value) and value.dtype.kind in "biu":
            given[i] = value.astype(target)


def result(op: Op, given: Sequence[Any], out: Any) -> Any:
    """What a rule made, as arrays; `TypeError` where dtypes were mixed."""
    if isinstance(out, tuple):
        return tuple([result(op, given, o) for o in out])
    if type(out) is not np.ndarray:
        out = as_array(out)
    dtype = out.dtype
    if dtype.kind == "f" and op.traits.numbers != "cast":
        for value in given:
            other = getattr(value, "dtype", dtype)
            if other is not dtype and other.kind == "f" and other != dtype:
                raise TypeError(_mixed(op, given))
    return out


def _mixed(op: Op, given: Sequence[Any]) -> str:
    return f"{signature(op, given)}: {MIXED}; cast so that they agree"


def refused(op: Op, given: Sequence[Any], error: Exception) -> Exception:
    """The error of a rule, with the call that it refused."""
    # AttributeError: a number or None where the op needs an array
    kind = next((k for k in (IndexError, ValueError) if isinstance(error, k)), TypeError)
    return kind(f"{signature(op, given)}: {error}")


def walked(op: Op | None) -> Exception:
    """The error of a second walk through the node of an op."""
    return RuntimeError(
        f"the graph through {op.name if op else 'a leaf'} was already walked back; compute the output again"
    )


def cotangent(given: Any, output: Array) -> Array:
    """A cotangent as an array; `ValueError` unless it has its output's library, shape and dtype."""
    want = f"a cotangent must be {describe(output)} as its output"
    given = as_array(given)
    if not is_array(given):
        raise ValueError(f"{want}, got {type(given).__name__}")
    if (given.shape, given.dtype) != (output.shape, output.dtype):
        raise ValueError(f"{want}, got {describe(given)}")
    if name(given) != name(output):
        raise ValueError(f"{want}, of {name(output)}, got one of {name(given)}")
    if reason := refusal(given):
        raise ValueError(f"{want}, and it {reason}")
    return of_base_class(given)


def parameter(path: str, array: Any) -> None:
    """`TypeError` unless this is a floating-point array (or scalar) that can be computed with."""
    if type(array) is np.ndarray and array.dtype in _FLOATS:
        return
    name = repr(path or "(the root)")
    if not (is_array(array) or isinstance(array, np.floating)) or array.dtype.kind != "f":
        came = f"{array.dtype} array" if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"parameter {name} is a {came}; only floating-point arrays have gradients")
    if reason := refusal(array):
        raise TypeError(f"parameter {name} {reason}")
