"""How a function of PyTorch becomes a class that can be rebuilt, and how its sizes are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...autograd.tree import Tree
from ...errors import InputError
from ...models.call import Call
from ..base import Arguments, Function, Given, Outputs, Rebuilt, read_call

Compute = Callable[[dict[str, Any], dict[str, Any]], Outputs]
Sizes = tuple[int, ...]


def function(
    compute: Compute, arguments: tuple[str, ...], optional: tuple[str, ...] = (), **defaults: Any
) -> Callable[[Given], Rebuilt]:
    """A builder for `compute(arrays by name, options)`; an optional array that is not given is None.

    Options are in the call, those of `defaults`; one that may be a number or a list of them has the default None.
    """
    names = (*arguments, *optional)

    def rebuild(given: Given) -> Rebuilt:
        def run(model: Any, params: Tree, called: Arguments, options: Mapping[str, Any], call: Call) -> Outputs:
            options = {**given.config, **options}
            values, chosen = read_call("the function", called, options, set(names), defaults, arguments)
            return compute({name: values.get(name) for name in names}, chosen)

        return Rebuilt(Function(compute), [], run)

    return rebuild


def sizes(what: str, value: Any, axes: int, default: int | None = None) -> Sizes:
    """A number for each axis, from one for all or a list; `default` where the value is None."""
    value = default if value is None else value
    whole = [value] * axes if isinstance(value, int) else list(value) if isinstance(value, (list, tuple)) else []
    whole = whole * axes if len(whole) == 1 else whole
    if len(whole) != axes or not all(isinstance(n, int) for n in whole):
        raise InputError(f"{what} must be a whole number or {axes} of them, got {value!r}")
    return tuple(whole)
