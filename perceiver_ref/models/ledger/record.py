"""One run of a model as a list of steps: each op with the name of the traced point that it leads to."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import signature
from typing import Any, NamedTuple

import numpy as np

from ...autograd import tree
from ...autograd.core import Node, Tape, Tensor, leaf
from ...autograd.modes import kernels
from ...autograd.observing import Event, observe
from ...autograd.tree import Tree
from ..call import Call
from ..module import Module, variant
from ..positions import FourierPositions
from ..tracing import point, trace
from .sketch import sketch


class TracedOp(NamedTuple):
    """An op, and the traced point at or before which it ran."""

    name: str
    event: Event


class Recording(NamedTuple):
    """The steps of a run in order, its outputs, its parameters by path, and whatever else it was given."""

    steps: list[TracedOp]
    outputs: list[Any]
    params: dict[str, Any]
    given: list[Any]


def record(model: Module, inputs: Tree, params: Tree, state: Tree, *, training: bool) -> Recording:
    """Run `model` on arrays or sketches; in training its parameters, and nothing else, are differentiated.

    `inputs` that are a tuple are several arguments.
    """
    traced = tree.map(lambda array: leaf(array, tape), params) if training and (tape := Tape()) else params
    events: list[Event] = []
    marks: list[tuple[int, str]] = []

    def mark(name: str) -> bool:
        marks.append((len(events), name))
        return False

    with kernels("plain"), trace(mark), observe(events.append):
        apply: Any = model.apply  # type: ignore[attr-defined]
        options = {"call": Call(training, state, key=0)} if "call" in signature(apply).parameters else {}
        out = apply(traced, *(inputs if isinstance(inputs, tuple) else (inputs,)), **options)
    outputs = [value for _, value in tree.leaves(out)]
    given = [array for _, array in (*tree.leaves(inputs), *tree.leaves(state))]
    return Recording(list(_named(events, marks)), outputs, tree.flatten(params), given)


def sketched(model: Module, inputs: Tree, dtype: Any, *, training: bool) -> Recording:
    """`record` on parameters and statistics without elements. Inputs: a tree of arrays or sketches."""

    def drawn(spec: Tree) -> Tree:
        return tree.map(lambda parameter: sketch(parameter.shape, dtype), spec)

    return record(
        _sketched_grid(model.map_parts(_sketched_grid)),
        inputs,
        drawn(model.parameters()),
        drawn(model.state()),
        training=training,
    )


def residuals(run: Recording) -> dict[Node, list[Any]]:
    """What the way back needs: the arrays that the recorded nodes behind the outputs hold.

    Of attention it is what kernels keep: its arguments and output, and the sum of each row of scores.
    """
    events = {step.event.node: step.event for step in run.steps if step.event.node is not None}
    found: dict[Node, list[Any]] = {}
    pending = [out.node for out in run.outputs if type(out) is Tensor]
    while pending:
        node = pending.pop()
        if node in found:
            continue
        held = node.residuals or ()
        if node.op is not None and node.op.name == "attention":  # the definition keeps its weights, kernels do not
            *operands, weights = held
            held = (*operands, *events[node].arguments[3:], *events[node].outputs, _row_sums(weights))
        found[node] = [r for r in held if isinstance(r, np.ndarray)]
        pending += [edge.node for edge in node.edges or ()]
    return found


def _row_sums(weights: np.ndarray) -> np.ndarray:
    return np.zeros_like(weights[..., :1])


def _named(events: list[Event], marks: list[tuple[int, str]]) -> Iterable[TracedOp]:
    """Each event goes to the first mark after it; those after the last mark go to that."""
    remaining = iter([*marks, (len(events), marks[-1][1] if marks else "")])
    upto, name = next(remaining)
    for number, event in enumerate(events):
        while number >= upto:
            upto, name = next(remaining)
        yield TracedOp(name, event)


class _SketchedGrid(FourierPositions):
    """The same encoding, whose table for a whole grid has no elements."""

    def apply(self, p: Tree, index_dims: tuple[int, ...], *, like: Any, pos: Any = None) -> Any:
        if pos is not None or len(index_dims) != len(self.max_resolution):
            return super().apply(p, index_dims, like=like, pos=pos)
        return point("positions", sketch((int(np.prod(index_dims)), self.channels), like.dtype))


def _sketched_grid(model: Module) -> Module:
    """A Fourier encoding without its tables; any other model as it is."""
    return variant(model, _SketchedGrid) if type(model) is FourierPositions else model
