"""Renaming between a peer's arrays and ours, declared as nested tables and used in both directions.

A table maps a path of ours to `(name of theirs, table or view)`. `{i}` in a path stands for an index; in a name `{i}`
is that index and `{_i}` is Haiku's suffix for it ("" for 0, then "_1", "_2"). A view is a function from the peer's
array to the part of it that is ours, without copying: the same function reads a weight out of the peer's array and
writes a gradient into one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..autograd import tree
from ..autograd.tree import Tree
from ..errors import InputError, listed

View = Callable[[Any], Any]
Table = Mapping[str, tuple[str, Any]]
Rows = list[tuple[str, str]]
"""(regular expression of a peer's module path, our name of the trace point)."""


def same(array: Any) -> Any:
    """The peer's array is ours."""
    return array


def transposed(array: Any) -> Any:
    """PyTorch keeps a linear map's weight as (outputs, inputs)."""
    return array.T


def flat(array: Any) -> Any:
    """One axis, where the peer keeps axes of length 1 for broadcasting."""
    return array.reshape(-1)


def fused(index: int, count: int) -> View:
    """Part `index` of `count` linear maps whose PyTorch weights are one array, below each other; biases likewise."""

    def view(array: Any) -> Any:
        rows = array.shape[0] // count
        part = array[index * rows : (index + 1) * rows]
        return part.T if part.ndim == 2 else part

    return view


LINEAR: Table = {"weight": ("weight", transposed), "bias": ("bias", same)}
"""A `torch.nn.Linear`."""
NORM: Table = {"scale": ("weight", same), "offset": ("bias", same)}
"""A `torch.nn.LayerNorm`."""


class Binding(NamedTuple):
    """Our array at `path`, of this shape, is `view` of the peer's array `name`."""

    path: str
    shape: tuple[int, ...]
    name: str
    view: View


def bind(spec: Tree, table: Table, separator: str = ".") -> list[Binding]:
    """A binding for every `Parameter` of a tree; `LookupError` when the table has no row for one."""
    return [
        Binding(path, parameter.shape, *_resolve(path.split("/"), table, "", separator, path))
        for path, parameter in tree.flatten(spec).items()
    ]


def below(theirs: str, ours: str, rows: Iterable[tuple[str, str]]) -> Rows:
    """The rows of a part inside a larger one, where it is called `theirs` and `ours`; `theirs` is no expression."""
    return inside(theirs.replace(".", r"\."), ours, rows)


def inside(theirs: str, ours: str, rows: Iterable[tuple[str, str]], calls: str = "") -> Rows:
    """The rows of a part whose module path is the expression `theirs`, with the expression `calls` at the ends.

    `theirs` and `calls` may have groups, which `ours` then names; the rows have none but those after them.
    """
    return [
        (
            r"\.".join(part for part in (theirs, a) if part) + calls,
            "|".join(_joined(ours, name) for name in b.split("|")),
        )
        for a, b in rows
    ]


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def renamed(prefix: str, table: Table) -> Table:
    """A table with the peer's names below `prefix`."""
    return {path: (f"{prefix}.{name}" if name else prefix, rest) for path, (name, rest) in table.items()}


def load(spec: Tree, bindings: Iterable[Binding], arrays: Mapping[str, np.ndarray]) -> Tree:
    """Our arrays, in the structure of `spec`, as views of a peer's; see `check` for what must hold before."""
    values = {b.path: b.view(arrays[b.name]) for b in bindings}
    return tree.unflatten_like(spec, [values[path] for path, _ in tree.leaves(spec)])


def check(bindings: Iterable[Binding], arrays: Mapping[str, np.ndarray], ignored: Iterable[str], where: object) -> None:
    """Raise `InputError` listing every missing, unused, wrongly shaped or non-floating-point array of a peer's.

    `ignored` are endings of names that may be there unused.
    """
    bindings = list(bindings)
    expected = {b.name for b in bindings}
    missing = sorted(expected - set(arrays))
    endings = tuple(ignored)
    unused = sorted(name for name in set(arrays) - expected if not (endings and name.endswith(endings)))
    wrong = []
    for b in bindings:
        array = arrays.get(b.name)
        if array is None:
            continue
        if array.dtype.kind != "f" and array.shape:
            wrong.append(f"{b.name} has dtype {array.dtype}, expected floating point")
        elif b.view(array).shape != b.shape:
            wrong.append(f"{b.name} has shape {array.shape}, expected {_expected(b)}")
    problems = [f"missing: {listed(missing)}"] if missing else []
    problems += [f"unused: {listed(unused)}"] if unused else []
    problems += wrong
    if problems:
        raise InputError(f"{where}: the parameters do not fit the configuration; {'; '.join(problems)}")


def store(bindings: Iterable[Binding], values: Tree, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The inverse, for values or gradients: the peer's arrays, of these shapes. Parts that are used twice add up."""
    ours = tree.flatten(values)
    arrays: dict[str, np.ndarray] = {}
    for b in bindings:
        value = np.asarray(ours[b.path])
        if b.name not in arrays:
            arrays[b.name] = np.zeros(shapes[b.name], value.dtype)
        part = b.view(arrays[b.name])
        part[...] += value
    return arrays


def _expected(b: Binding) -> str:
    """The peer's shape, where the view is its own inverse; otherwise ours."""
    if b.view in (same, transposed):
        return str(b.view(np.broadcast_to(np.zeros(()), b.shape)).shape)
    return f"one that gives {b.shape} for our {b.path}"


def _resolve(path: list[str], table: Table, prefix: str, separator: str, full: str) -> tuple[str, View]:
    for pattern, (name, rest) in table.items():
        index = _match(pattern.split("/"), path)
        if index is None:
            continue
        suffix = "" if index in ("", "0") else f"_{index}"
        name = name.replace("{i}", index).replace("{_i}", suffix)
        theirs = separator.join(part for part in (prefix, name) if part)
        remainder = path[pattern.count("/") + 1 :]
        if callable(rest) and not remainder:
            return theirs, rest
        if not callable(rest) and remainder:
            return _resolve(remainder, rest, theirs, separator, full)
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
