"""Nested values as named arrays: what a call was given and gave, whatever it is wrapped in.

Names are joined by dots: entries of dicts, fields of dataclasses and of transformers' outputs by their names, elements
of lists and tuples by their places.
"""

from __future__ import annotations

import copy
import dataclasses
import numbers
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..cases.tensors import is_array


def fields(value: Any) -> Mapping[str, Any] | None:
    """The parts of a dict or dataclass by name; None for anything else."""
    if isinstance(value, Mapping):
        return {str(key): part for key, part in value.items()}
    return {field.name: getattr(value, field.name) for field in _fields(value)} if _is_data(value) else None


def outputs(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(name, array) of what a call returned: `out` for an array, `out0`, `out1` for a tuple, otherwise by name."""
    if is_array(value):
        yield name or "out", value
    elif isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            yield from outputs(part, f"{name}.{i}" if name else f"out{i}")
    elif (parts := fields(value)) is not None:
        for key, part in parts.items():
            yield from outputs(part, f"{name}.{key}" if name else key)


def arguments(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """(name, array or number, text, flag, None, list of such) of an argument; whatever else it holds comes as it is."""
    if plain(value) or is_array(value):
        yield name, value
    elif isinstance(value, (list, tuple)) and value:
        for i, part in enumerate(value):
            yield from arguments(f"{name}.{i}", part)
    elif (parts := fields(value)) is not None:
        for key, part in parts.items():
            yield from arguments(f"{name}.{key}", part)
    else:
        yield name, value


def leaves(values: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, array) of nested dicts and lists; boxes of metadata (Flax's) are opened."""
    if hasattr(values, "unbox"):
        values = values.unbox()
    if isinstance(values, (list, tuple)):
        values = {str(i): part for i, part in enumerate(values)}
    if isinstance(values, Mapping):
        for key, part in values.items():
            yield from leaves(part, f"{name}.{key}" if name else str(key))
    elif is_array(values):
        yield name, values


def plain(value: Any) -> bool:
    """Whether a value goes into JSON as it is: a number, text, flag, None, or lists and dicts of such alone."""
    if value is None or isinstance(value, (str, bool, int, float, np.generic)):
        return True
    if isinstance(value, (list, tuple)):
        return all(map(plain, value))
    return isinstance(value, Mapping) and bool(value) and all(map(plain, value.values()))


def as_json(value: Any) -> Any:
    """A plain value in JSON's types; other numbers (NumPy's) as Python's."""
    if isinstance(value, Mapping):
        return {str(key): as_json(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(part) for part in value]
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, np.generic):
        return as_json(value.item())
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else str(value)


def exchanged(value: Any, replace: Callable[[Any], Any]) -> Any:
    """The same structure with every array replaced; what holds none, or is no container that can be copied, stays."""
    if is_array(value):
        return replace(value)
    if isinstance(value, (list, tuple)):
        if type(value) not in (list, tuple) and not hasattr(value, "_fields"):
            return value
        parts = [exchanged(part, replace) for part in value]
        if all(new is old for new, old in zip(parts, value)):
            return value
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if (isinstance(value, Mapping) and hasattr(value, "__setitem__")) or _is_data(value):
        entries = value if isinstance(value, Mapping) else {f.name: getattr(value, f.name) for f in _fields(value)}
        changed = {key: new for key, part in entries.items() if (new := exchanged(part, replace)) is not part}
        made: Any = copy.copy(value) if changed else value
        for key, part in changed.items():
            if isinstance(value, Mapping):
                made[key] = part
            else:
                object.__setattr__(made, key, part)
        return made
    return value


def _is_data(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _fields(value: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(value)
