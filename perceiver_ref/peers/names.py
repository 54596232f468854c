"""Renaming between a peer's parameters and ours, declared as nested tables and usable in both directions.

A table maps a path of ours to `(name of theirs, table or view)`; `{i}` stands for an index. A view is a function from
the peer's array to our parameter, without copying, and its own inverse: it also turns our gradients into the peer's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..autograd import tree
from ..autograd.tree import Tree
from ..errors import InputError
from ..parameters import Module

View = Callable[[Any], Any]
Table = Mapping[str, tuple[str, Any]]


def same(array: Any) -> Any:
    """The peer's array is our parameter."""
    return array


def transposed(array: Any) -> Any:
    """PyTorch keeps a linear map's weight as (outputs, inputs)."""
    return array.T


LINEAR: Table = {"weight": ("weight", transposed), "bias": ("bias", same)}
"""A `torch.nn.Linear`."""
NORM: Table = {"scale": ("weight", same), "offset": ("bias", same)}
"""A `torch.nn.LayerNorm`."""


class Binding(NamedTuple):
    """Our parameter at `path` is `view` of the peer's array `name`."""

    path: str
    name: str
    view: View


def bind(module: Module, table: Table, prefix: str = "") -> list[Binding]:
    """A binding for every parameter of a model; `LookupError` when the table has no row for one."""
    paths = tree.flatten(module.parameters())
    return [Binding(path, *_resolve(path.split("/"), table, prefix, path)) for path in paths]


def load(module: Module, bindings: Iterable[Binding], arrays: Mapping[str, np.ndarray], where: object) -> Tree:
    """Our parameters as views of a peer's arrays.

    Raises `InputError` listing every missing, unused, wrongly shaped or non-floating-point array.
    """
    bindings = list(bindings)
    spec = tree.flatten(module.parameters())
    expected = {b.name: b for b in bindings}
    missing = sorted(name for name in expected if name not in arrays)
    unused = sorted(name for name in arrays if name not in expected)
    wrong = []
    for b in bindings:
        array = arrays.get(b.name)
        if array is None:
            continue
        if array.dtype.kind != "f":
            wrong.append(f"{b.name} has dtype {array.dtype}, expected floating point")
        elif b.view(array).shape != spec[b.path].shape:
            expected_shape = b.view(np.broadcast_to(np.zeros(()), spec[b.path].shape)).shape
            wrong.append(f"{b.name} has shape {array.shape}, expected {expected_shape}")
    problems = [f"missing: {_listed(missing)}"] if missing else []
    problems += [f"unused: {_listed(unused)}"] if unused else []
    problems += wrong
    if problems:
        raise InputError(f"{where}: the parameters do not fit the configuration; {'; '.join(problems)}")
    values = [b.view(arrays[b.name]) for b in bindings]
    return tree.unflatten_like(module.parameters(), values)


def store(bindings: Iterable[Binding], values: Tree) -> dict[str, np.ndarray]:
    """The inverse, for values or gradients: the peer's arrays."""
    flat = tree.flatten(values)
    return {b.name: b.view(flat[b.path]) for b in bindings}  # same and transposed are their own inverses


def _resolve(path: list[str], table: Table, prefix: str, full: str) -> tuple[str, View]:
    for pattern, (name, rest) in table.items():
        index = _match(pattern.split("/"), path)
        if index is None:
            continue
        theirs = ".".join(part for part in (prefix, name.replace("{i}", index)) if part)
        remainder = path[pattern.count("/") + 1 :]
        if callable(rest) and not remainder:
            return theirs, rest
        if not callable(rest) and remainder:
            return _resolve(remainder, rest, theirs, full)
    raise LookupError(f"no row of the peer's table names our parameter {full!r}")


def _match(pattern: list[str], path: list[str]) -> str | None:
    """The index that `{i}` matched ("" without one), or None when the path does not start with the pattern."""
    index = ""
    if len(path) < len(pattern):
        return None
    for want, have in zip(pattern, path):
        if want == "{i}" and have.isdigit():
            index = have
        elif want != have:
            return None
    return index


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"
