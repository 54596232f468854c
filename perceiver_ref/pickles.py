"""Reading pickles of parameter trees without running them: arrays, numbers, text and containers, and nothing else.

DeepMind released its weights as pickles of NumPy trees (Haiku parameters). Unpickling runs whatever code a file names,
so this module does not unpickle: it interprets the opcodes itself and knows a handful of constructors by name, each
replaced by a function here. Anything else in a file is refused before it is built.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import InputError
from .files import AnyPath, existing_file

_KINDS = "biuf"  # bool, integer, floating point: no objects, no text, no records
_DEPTH = 64
_NODES = 100_000
_SIZE = 1 << 40


class RefusedError(Exception):
    """Something that a tree of arrays does not need."""


class _Dtype:
    """A NumPy dtype under construction."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.dtype = np.dtype(_text(code))
        if self.dtype.kind not in _KINDS or self.dtype.hasobject:
            raise RefusedError(f"the dtype {self.dtype}")

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise RefusedError("a malformed dtype")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
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
    try:
        with path.open("rb") as file:
            return _plain(_interpret(pickletools.genops(file)))
    except RefusedError as error:
        raise InputError(
            f"{path} is refused: it holds {error}; expected a pickle of arrays and containers only"
        ) from None
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError, UnicodeError, EOFError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is not a readable pickle ({text[:120]})") from None


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("ascii")
    if not isinstance(value, str):
        raise RefusedError("a malformed dtype")
    return value


def _build(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """An array from its bytes; the sizes must agree, so that no file can claim more memory than it holds."""
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)) or order not in ("C", "F"):
        raise RefusedError("a malformed array")
    shape = (shape,) if isinstance(shape, int) else shape
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(type(n) is int and 0 <= n < _SIZE for n in shape):
        raise RefusedError("an array of impossible shape")
    if math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise RefusedError(f"an array of shape {shape} with {len(data)} bytes of data")
    values = np.frombuffer(data, dtype.dtype).astype(dtype.dtype.newbyteorder("="))
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


def _latin(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedError("a text codec")
    return text.encode("latin-1")


def _no_bytes(*arguments: Any) -> bytes:
    if arguments:
        raise RefusedError("a call of bytes")
    return b""


def _mapping(items: Any = ()) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for key, value in items.items() if isinstance(items, dict) else items:
        _set(made, key, value)
    return made


def _set(target: Any, key: Any, value: Any) -> None:
    if type(key) not in (str, int, bytes) or not isinstance(target, dict):
        raise RefusedError(f"a key of type {type(key).__name__}")
    target[key] = value


_CONSTRUCTORS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _latin,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
    ("collections", "OrderedDict"): _mapping,
    ("haiku._src.data_structures", "FlatMapping"): _mapping,
    ("haiku._src.data_structures", "FlatMap"): _mapping,
    ("haiku._src.data_structures", "frozendict"): _mapping,
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
"""What a file may name, and the function here that stands for it."""

_MARK = object()
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _interpret(opcodes: Any) -> Any:
    """Run a pickle's opcodes on a stack of our own."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        items: list[Any] = []
        while (item := stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    for opcode, argument, _ in opcodes:
        name = opcode.name
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "STOP":
            return stack.pop()
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            since_mark()
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "LIST":
            stack.append(since_mark())
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in _TUPLES:
            items = stack[-_TUPLES[name] :]
            del stack[-_TUPLES[name] :]
            stack.append(tuple(items))
        elif name in ("DICT", "SETITEMS"):
            items = since_mark()
            if name == "DICT":
                stack.append({})
            for key, value in zip(items[::2], items[1::2], strict=True):
                _set(stack[-1], key, value)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _set(stack[-1], key, value)
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else since_mark()
            if not isinstance(stack[-1], list):
                raise RefusedError("a malformed list")
            stack[-1].extend(items)
        elif name == "GLOBAL":
            stack.append(_constructor(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_constructor(module, attribute))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            if not any(function is known for known in _CONSTRUCTORS.values()) or not isinstance(arguments, tuple):
                raise RefusedError("a call")
            stack.append(function(*arguments))
        elif name == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], (_Array, _Dtype)):
                raise RefusedError("an object with a state")
            stack[-1].set_state(state)
        else:
            raise RefusedError(f"the opcode {name}")
    raise RefusedError("no end")


def _constructor(module: Any, name: Any) -> Callable[..., Any]:
    found = _CONSTRUCTORS.get((module, name))
    if found is None:
        raise RefusedError(f"the name {module}.{name}")
    return found


def _plain(root: Any) -> Any:
    """The finished tree. A part that the file shares is copied for each place; too many of them are refused."""
    nodes = 0

    def plain(value: Any, depth: int) -> Any:
        nonlocal nodes
        nodes += 1
        if depth > _DEPTH or nodes > _NODES:
            raise RefusedError(f"more than {_DEPTH} levels or {_NODES} nodes of containers")
        if isinstance(value, _Array):
            if value.array is None:
                raise RefusedError("an unfinished array")
            return value.array
        if isinstance(value, dict):
            return {key: plain(child, depth + 1) for key, child in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(plain(child, depth + 1) for child in value)
        if value is None or isinstance(value, (bool, int, float, str, bytes, np.ndarray)):
            return value
        raise RefusedError(f"a {type(value).__name__}")

    return plain(root, 0)
