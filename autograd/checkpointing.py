"""`checkpoint`: recompute in place of keeping residuals, to save memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from . import tree
from .core import Op, Rule, Tape, Tensor, leaf
from .gradients import backward
from .tree import Tree


def checkpoint(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which keeps its arguments instead of its residuals and runs again on the way back.

    Memory for one more forward pass (Chen et al. 2016, arXiv 1604.06174). Arguments and output are trees; everything
    differentiated must be an argument, and randomness must come from an explicit key, or the second run differs.
    """

    @wraps(function)
    def wrapped(*arguments: Any) -> Any:
        flat = [value for _, value in tree.leaves(list(arguments))]
        positions = [i for i, value in enumerate(flat) if type(value) is Tensor]
        if not positions:
            return function(*arguments)
        constants = [None if type(value) is Tensor else value for value in flat]
        structure = tree.map(lambda _: 0, list(arguments))  # not the arguments: the graph must not hold Tensors
        template: list[Tree] = []

        def call(*traced: Any) -> Any:
            values = list(constants)
            for position, value in zip(positions, traced):
                values[position] = value
            return function(*tree.unflatten_like(structure, values))

        def forward(*arrays: Any) -> Any:
            out = call(*arrays)
            values = [value for _, value in tree.leaves(out)]
            if any(type(value) is Tensor for value in values):
                raise TypeError("a checkpointed function uses a Tensor that is not among its arguments; pass it in")
            template.append(tree.map(lambda _: 0, out))
            return tuple(values), arrays

        def pull(gradients: Any, *arrays: Any) -> Any:
            tape = Tape()
            traced = [leaf(array, tape) for array in arrays]
            outputs = [value for _, value in tree.leaves(call(*traced))]
            gradients = gradients if isinstance(gradients, tuple) else (gradients,)
            pairs = [(o, g) for o, g in zip(outputs, gradients, strict=True) if type(o) is Tensor]
            return backward([o for o, _ in pairs], [g for _, g in pairs], traced)

        run = Op(forward, numbers="cast")  # the ops inside round
        run.name = f"checkpoint({getattr(function, '__name__', 'function')})"
        run.definition = Rule(forward, pull)
        outputs = run(*(flat[i] for i in positions))
        return tree.unflatten_like(template[0], list(outputs))

    return wrapped
