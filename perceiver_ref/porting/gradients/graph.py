"""The reference's own backward pass, recorded once and then walked again and again with single steps changed.

Gradients flow from the outputs' cotangents to the leaves, which are parameters and inputs. A changed step sends other
gradients to its arguments; only what lies upstream of it is computed anew, from the gradients that the unchanged walk
left everywhere else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...autograd import tree
from ...autograd.backend import is_array
from ...autograd.core import Node, Op, Tape, Tensor, leaf
from ...autograd.gradients import unbroadcast
from ...autograd.modes import kernels
from ...autograd.observing import Event, observe
from ...autograd.tree import Tree
from ...errors import InputError
from ...models.tracing import trace, where

Gradients = list[Any]
"""One array for each positional argument of an op; None where there is none."""
Pull = Callable[["Step", Any], Sequence[Any]]
"""From a step and the gradient of its output (a tuple for several) to those of its arguments."""


@dataclass(frozen=True)
class Edge:
    """Argument `position` of a step is output `output` of node `source`."""

    position: int
    source: int
    output: int


@dataclass
class Step:
    """One op as it ran. `place` are the scopes around it, `point` the traced value that it makes or goes into."""

    op: Op
    place: str
    arguments: tuple[Any, ...]
    static: dict[str, Any]
    needs: tuple[bool, ...]
    residuals: tuple[Any, ...]
    outputs: tuple[Any, ...]
    edges: tuple[Edge, ...] = ()
    point: str = ""
    role: str = ""

    def pull(self, gradient: Any) -> Sequence[Any]:
        """The gradients that the op's own rule gives, before they are summed over broadcast axes."""
        return self.op.definition.pull(gradient, self.residuals, {**self.op.defaults, **self.static}, self.needs)

    def fit(self, position: int, gradient: Any) -> Any:
        """A gradient summed over the axes along which the argument was broadcast; None stands for zeros."""
        shape = self.arguments[position].shape
        if gradient is None:
            return np.zeros(shape)
        gradient = np.asarray(gradient)
        fitted = gradient if gradient.shape == shape else unbroadcast(gradient, shape)
        if fitted is None:
            raise ValueError(f"a gradient of shape {gradient.shape} for an argument of shape {shape}")
        return fitted

    def argument(self, position: int) -> str:
        """The name of an argument."""
        names = self.op.arrays
        return names[position] if position < len(names) and not self.op.traits.variadic else f"part {position + 1}"


@dataclass
class Graph:
    """Leaves and steps in the order of the run. `loss` maps node and output to the cotangents that start there."""

    nodes: list[Step | str]
    """A step, or the path of a leaf"""
    loss: dict[int, list[tuple[int, Any, str]]]
    """node -> (output, cotangent, name) of the outputs that it makes"""
    consumers: list[list[tuple[int, Edge]]] = field(default_factory=list)
    upstream: list[int] = field(default_factory=list)
    """Of each node, the leaves that it depends on, one bit each, the node itself included"""
    shapes: list[list[tuple[int, ...]]] = field(default_factory=list)
    arriving: list[Gradients] = field(default_factory=list)
    sent: dict[tuple[int, int], Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.consumers = [[] for _ in self.nodes]
        bits = 0
        for i, node in enumerate(self.nodes):
            if isinstance(node, str):
                self.upstream.append(1 << bits)
                bits += 1
                continue
            mask = 0
            for edge in node.edges:
                self.consumers[edge.source].append((i, edge))
                mask |= self.upstream[edge.source]
            self.upstream.append(mask)
        self.leaves = {node: self.upstream[i] for i, node in enumerate(self.nodes) if isinstance(node, str)}
        self.arriving = [[] for _ in self.nodes]

    @property
    def steps(self) -> list[tuple[int, Step]]:
        """Steps with their numbers."""
        return [(i, node) for i, node in enumerate(self.nodes) if isinstance(node, Step)]

    def walk(
        self, after: Callable[[Any], Any] = lambda g: g, pulls: Mapping[str, Pull] | None = None
    ) -> dict[str, Any]:
        """All the way back: gradients by leaf. `after` is applied to every gradient sent, `pulls` are other rules."""
        self.sent, found = {}, {}
        for i in range(len(self.nodes) - 1, -1, -1):
            node = self.nodes[i]
            self.arriving[i] = [after(g) for g in self._sum(i, {}, 1.0)]
            if isinstance(node, str):
                found[node] = self.arriving[i][0]
                continue
            rule = (pulls or {}).get(node.op.name, Step.pull)
            made = rule(node, self._given(i, self.arriving[i]))
            for edge in node.edges:
                self.sent[i, edge.position] = after(node.fit(edge.position, made[edge.position]))
        return found

    def again(self, changes: Mapping[int, Pull], loss: float | Mapping[str, float] = 1.0) -> dict[str, Any]:
        """Gradients of the leaves that these changed steps, or a changed factor on the loss, make different."""
        changed: dict[tuple[int, int], Any] = {}
        touched = [False] * len(self.nodes)
        for i, given in self.loss.items():
            touched[i] = loss != 1.0 and any(_of(loss, name) != 1.0 for _, _, name in given)
        found: dict[str, Any] = {}
        start = max([*changes, *(i for i, t in enumerate(touched) if t)], default=-1)
        for i in range(start, -1, -1):
            if i not in changes and not touched[i]:
                continue
            node = self.nodes[i]
            gradients = self._sum(i, changed, loss) if touched[i] else self.arriving[i]
            if isinstance(node, str):
                found[node] = gradients[0]
                continue
            made = (changes.get(i) or Step.pull)(node, self._given(i, gradients))
            for edge in node.edges:
                changed[i, edge.position] = node.fit(edge.position, made[edge.position])
                touched[edge.source] = True
        return found

    def _given(self, i: int, gradients: Gradients) -> Any:
        return gradients[0] if len(gradients) == 1 else tuple(gradients)

    def _sum(self, i: int, changed: Mapping[tuple[int, int], Any], loss: float | Mapping[str, float]) -> Gradients:
        """What arrives at the outputs of a node."""
        total = [np.zeros(shape) for shape in self.shapes[i]]
        for output, cotangent, name in self.loss.get(i, ()):
            total[output] = total[output] + cotangent * _of(loss, name)
        for step, edge in self.consumers[i]:
            key = (step, edge.position)
            total[edge.output] = total[edge.output] + (changed[key] if key in changed else self.sent[key])
        return total

    def reached(self, i: int, position: int) -> int:
        """The leaves that the gradient of this argument goes to."""
        node = self.nodes[i]
        assert isinstance(node, Step)
        return next((self.upstream[edge.source] for edge in node.edges if edge.position == position), 0)


def _of(loss: float | Mapping[str, float], name: str) -> float:
    return loss if isinstance(loss, float) else loss.get(name, 1.0)


def record(
    run: Callable[[Tree, Mapping[str, Any]], Mapping[str, Any]],
    params: Tree,
    inputs: Mapping[str, Any],
    cotangents: Mapping[str, Any],
) -> Graph:
    """The graph of `run(params, inputs)`, whose floating-point arrays are the leaves, by path and by "input/<name>".

    Raises `InputError` for a cotangent of another shape than its output, or of none.
    """
    tape = Tape()
    leaves: dict[Node, str] = {}

    def made(path: str, array: Any) -> Any:
        tensor = leaf(array, tape)
        leaves[tensor.node] = path
        return tensor

    variables = tree.unflatten_like(params, [made(path, array) for path, array in tree.leaves(params)])
    given = {
        name: made(f"input/{name}", array) if is_array(array) and array.dtype.kind == "f" else array
        for name, array in inputs.items()
    }
    events: list[tuple[Event, str]] = []
    with (
        kernels("plain"),  # whose rules keep what their equations say
        trace(lambda name: not name.endswith(("weights", "softmax")), tensors=True) as traced,
        observe(lambda event: events.append((event, where())) if event.node is not None else None),
        np.errstate(all="ignore"),
    ):
        outputs = run(variables, given)
    starts: dict[Node, list[tuple[int, Any, str]]] = {}
    for name, cotangent in cotangents.items():
        if name not in outputs or outputs[name].shape != cotangent.shape:
            raise InputError(f"cotangent/{name} does not fit the outputs of the reference")
        if type(outputs[name]) is Tensor:
            starts.setdefault(outputs[name].node, []).append((outputs[name].output, cotangent, name))
    return _graph(events, leaves, starts, traced)


def _graph(
    events: Sequence[tuple[Event, str]],
    leaves: Mapping[Node, str],
    starts: Mapping[Node, list[tuple[int, Any, str]]],
    traced: Mapping[str, Any],
) -> Graph:
    needed: set[Node] = set(starts)
    for event, _ in reversed(events):
        if event.node in needed:
            needed.update(edge.node for edge in event.node.edges or ())
    ordered = [*leaves, *(event.node for event, _ in events if event.node in needed and event.node is not None)]
    numbers = {node: i for i, node in enumerate(ordered)}
    points: dict[Node, str] = {}
    for name, value in traced.items():
        if type(value) is Tensor:
            points.setdefault(value.node, name)
    nodes: list[Step | str] = list(leaves.values())
    for event, place in events:
        if event.node not in numbers or event.node is None:
            continue
        step = Step(
            event.op,
            place,
            event.arguments,
            event.node.options,
            event.node.needs,
            event.node.arrays(),
            event.outputs,
            tuple(Edge(e.position, numbers[e.node], e.output) for e in event.node.edges or ()),
        )
        step.point = points.get(event.node, "")
        nodes.append(step)
    graph = Graph(nodes, {numbers[node]: given for node, given in starts.items() if node in numbers})
    graph.shapes = [[slot.shape for slot in node.outputs] for node in ordered]
    _name(graph)
    return graph


def _name(graph: Graph) -> None:
    """Steps between two points take the name of the one that they lead to, and each a role: its name in its layer."""
    for i in range(len(graph.nodes) - 1, -1, -1):
        step = graph.nodes[i]
        if isinstance(step, Step) and not step.point:
            following = (graph.nodes[n] for n, _ in graph.consumers[i])
            inside = [n.point for n in following if isinstance(n, Step) and n.point.startswith(step.place)]
            outputs = [f"output.{name}" for _, _, name in graph.loss.get(i, ())]
            step.point = (inside or outputs or [step.place])[0] or step.place
    seen: dict[tuple[str, str, str], int] = {}
    for _, step in graph.steps:
        paths = [n for e in step.edges if e.position and isinstance(n := graph.nodes[e.source], str)]
        parameter = next((path.rpartition("/")[0] for path in paths if not path.startswith("input/")), "")
        key = (step.place, step.op.name, step.point)
        seen[key] = seen.get(key, 0) + 1
        *_, outer, inner = ("", "", *parameter.split("/"))
        own = f"{outer}/{inner}" if outer in ("attention", "mlp") else inner
        name = own or in_layer(step.point)
        step.role = f"{step.op.name} {name}" + (f" {seen[key]}" if seen[key] > 1 else "")


def in_layer(name: str) -> str:
    """What of a dotted name stands after its layer."""
    parts = re.split(r"(?:^|.*\.)(?:\d+|cross_attention)(?:\.|$)", name)
    return parts[-1]
