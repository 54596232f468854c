"""A few operations in a row as one class, "steps": each by name, on inputs, parameters and earlier results by name.

    {"steps": [{"op": "linear", "arguments": ["x", "query/weight", "query/bias"], "results": ["linear"]},
               {"op": "reshape", "arguments": ["linear"], "options": {"shape": [2, 5, 4, 3]}, "results": ["out"]}],
     "outputs": {"out": "out"}}

The excerpt that `diagnose` writes is such a case where a difference lies within more than one operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...autograd import tree
from ...autograd.backend import is_array
from ...autograd.core import Op, array_of, registry
from ...autograd.tree import Tree
from ...errors import InputError, one_of, shortened
from ...host.memory import require
from ...models.call import Call
from ...models.module import Module, Parameter, zeros
from ..base import Arguments, Given, Outputs, Rebuilt, options
from ..names import Binding, same

NAME = "steps"
MOST = 4096
_LARGEST_DTYPE = 8


class UnwrittenError(Exception):
    """An option of an operation that JSON cannot hold."""


def encoded(value: Any, name_of: Callable[[Any], str]) -> Any:
    """An option as JSON: arrays by `name_of`, and what JSON lacks as an object of one key; `UnwrittenError` for the
    rest."""
    if is_array(array_of(value)):
        return {"array": name_of(array_of(value))}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [encoded(part, name_of) for part in value]
    if isinstance(value, slice):
        return {"slice": [encoded(part, name_of) for part in (value.start, value.stop, value.step)]}
    if value is Ellipsis:
        return {"ellipsis": True}
    try:
        return {"dtype": np.dtype(value).name}
    except TypeError:
        raise UnwrittenError(type(value).__name__) from None


def _decoded(value: Any, arrays: Mapping[str, Any], where: str) -> Any:
    """The inverse; lists are tuples."""
    if isinstance(value, list):
        return tuple(_decoded(part, arrays, where) for part in value)
    if not isinstance(value, Mapping):
        return value
    if len(value) == 1:
        ((kind, inner),) = value.items()
        if kind == "array":
            return array_of(_value(inner, arrays, where))
        if kind == "number" and inner in ("inf", "-inf", "nan"):
            return float(inner)
        if kind == "slice" and isinstance(inner, list) and len(inner) == 3 and all(map(_is_index, inner)):
            return slice(*inner)
        if kind == "ellipsis":
            return Ellipsis
        if kind == "dtype" and inner in ("float64", "float32", "float16", "int64", "int32", "bool"):
            return np.dtype(inner)
    raise InputError(f"{where}: {shortened(value)} is no value of an option")


def _is_index(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


@dataclass(frozen=True)
class Step:
    """One operation: the names of its arguments (numbers and null stand for themselves) and of its results."""

    op: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    results: tuple[str, ...]


@dataclass(frozen=True)
class Steps(Module):
    """The steps, in order; parameters are arrays by name, of these shapes."""

    steps: tuple[Step, ...]
    outputs: Mapping[str, str]
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def parameters(self) -> Tree:
        """Each by its name, whose slashes are levels."""
        return {name: Parameter(shape, zeros) for name, shape in self.shapes}

    def apply(self, p: Tree, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs by name, of `arrays` by name; their shapes are those of the operations."""
        known = dict(tree.flatten(p))
        for name, array in arrays.items():
            if name in known:
                raise InputError(f"{name!r} is an input and a parameter of {NAME}")
            known[name] = array
        for number, step in enumerate(self.steps):
            where = f"step {number} of {NAME} ({step.op})"
            op = registry[step.op]
            arguments = [_value(a, known, where) if isinstance(a, str) else a for a in step.arguments]
            chosen = {key: _decoded(value, known, where) for key, value in step.options.items()}
            _check_size(where, op, arguments, chosen)
            made = op(arguments, **chosen) if op.traits.variadic else op(*arguments, **chosen)
            results = made if isinstance(made, tuple) else (made,)
            if len(results) != len(step.results):
                raise InputError(f"{where} gives {len(results)} arrays, and names {len(step.results)}")
            known.update(zip(step.results, results))
        return {name: _value(of, known, f"output {name!r} of {NAME}") for name, of in self.outputs.items()}


def _value(name: Any, known: Mapping[str, Any], where: str) -> Any:
    if not isinstance(name, str) or name not in known:
        raise one_of(f"array in {where}", str(name), known)
    return known[name]


def _check_size(where: str, op: Op, arguments: Sequence[Any], chosen: Mapping[str, Any]) -> None:
    """Refuse what cannot fit into memory, before an operation begins to make it."""
    shapes = [tuple(a.shape) for a in arguments if hasattr(a, "shape")]
    require(where, _LARGEST_DTYPE * _elements(op.name, shapes, chosen))


def _elements(op: str, shapes: Sequence[tuple[int, ...]], chosen: Mapping[str, Any]) -> int:
    """As many elements as a result may have, or a little more."""
    sizes = [math.prod(shape) for shape in shapes]
    first = shapes[0] if shapes else ()
    if op == "broadcast_to":
        return math.prod(n for n in chosen.get("shape", ()) if isinstance(n, int))
    if op == "pad":
        return int(math.prod(n + sum(pair) for n, pair in zip(first, chosen.get("widths", ()))))
    if op in ("convolution", "transposed_convolution", "max_pool"):
        padding = chosen.get("padding", ())
        pairs = padding if isinstance(padding, tuple) else ()
        strides = chosen.get("strides", ()) if op == "transposed_convolution" else ()
        grid = [n * s for n, s in zip(first[1:-1], (*strides, *(1,) * len(first)))]
        wide = math.prod(n + sum(pair) for n, pair in zip(grid, pairs)) if pairs else math.prod(grid)
        return int(abs(wide) * (first[0] if first else 1) * max(s[-1] for s in (*shapes, (1,)) if s))
    if op in ("attention", "attention_weights") and len(shapes) > 1 and all(len(s) > 1 for s in shapes[:2]):
        return sum(sizes) + math.prod(first[:-1]) * shapes[1][-2]
    if op in ("matmul", "linear") and len(shapes) > 1 and shapes[1]:
        lead = max(math.prod(first[:-1]), math.prod((*shapes[1][:-2], first[-2] if len(first) > 1 else 1)))
        return lead * shapes[1][-1]
    if op == "take" and len(sizes) > 1:
        axis = chosen.get("axis", 0)
        return int(sizes[1] * (sizes[0] // max(first[axis], 1)))
    if op in ("concatenate", "stack"):
        return sum(sizes)
    try:
        return math.prod(np.broadcast_shapes(*shapes))
    except ValueError:
        return sum(sizes)


def rebuild(given: Given) -> Rebuilt:
    """The steps of a configuration; parameters are what the case has."""
    chosen = options(NAME, given.config, {"steps": [], "outputs": {}})
    rows, outputs = chosen["steps"], chosen["outputs"]
    if not isinstance(rows, list) or not 0 < len(rows) <= MOST:
        raise InputError(f"{NAME} needs a list of 1 to {MOST} steps")
    if not isinstance(outputs, Mapping) or not outputs or not all(isinstance(n, str) for n in outputs.values()):
        raise InputError(f"{NAME} needs outputs, an object of names")
    names: set[str] = {*given.inputs, *given.params}
    steps = []
    for number, row in enumerate(rows):
        step = _step(number, row)
        for name in step.results:
            if name in names:
                raise InputError(f"step {number} of {NAME}: there are two arrays called {shortened(name)}")
            names.add(name)
        steps.append(step)
    model = Steps(tuple(steps), dict(outputs), tuple((name, tuple(shape)) for name, shape in given.params.items()))

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        options(NAME, called, {"is_training": False})
        made: Outputs = model.apply(params, arguments)
        return made

    bindings = [Binding(path, p.shape, path, same) for path, p in tree.flatten(model.parameters()).items()]
    return Rebuilt(model, bindings, run, [("(.+)", r"\1")])


def _step(number: int, row: Any) -> Step:
    where = f"step {number} of {NAME}"
    if not isinstance(row, Mapping):
        raise InputError(f"{where} must be an object, got {shortened(row)}")
    chosen = options(where, row, {"op": "", "arguments": [], "options": {}, "results": []})
    if chosen["op"] not in registry:
        raise one_of(f"operation in {where}", str(chosen["op"]), registry)
    arguments, results = chosen["arguments"], chosen["results"]
    plain: Any = (str, int, float, type(None))
    if not isinstance(arguments, list) or not all(isinstance(a, plain) for a in arguments):
        raise InputError(f"{where}: arguments must be a list of names, numbers and null")
    if not isinstance(results, list) or not results or not all(isinstance(r, str) for r in results):
        raise InputError(f"{where}: results must be a list of names")
    if not isinstance(chosen["options"], Mapping):
        raise InputError(f"{where}: options must be an object, got {shortened(chosen['options'])}")
    for key in chosen["options"]:
        if key not in registry[chosen["op"]].defaults:
            raise one_of(f"option of {chosen['op']} in {where}", str(key), registry[chosen["op"]].defaults)
    return Step(chosen["op"], tuple(arguments), dict(chosen["options"]), tuple(results))
