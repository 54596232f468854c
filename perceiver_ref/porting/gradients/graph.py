"""The reference's own backward pass, recorded once and then walked again and again with single steps changed.

Gradients flow from the outputs' cotangents to the leaves, which are parameters and inputs. A changed step sends other
gradients to its arguments; only what lies upstream of it is computed anew, from the gradients that the unchanged walk
left everywhere else. Nodes and edges are the engine's; a node's number is its `serial`, which grows with time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ...autograd import tree
from ...autograd.backend import is_array, xp
from ...autograd.core import Edge, Node, Op, Tape, Tensor, leaf
from ...autograd.gradients import unbroadcast
from ...autograd.modes import kernels
from ...autograd.observing import Event, observe
from ...autograd.tree import Tree
from ...errors import InputError
from ...models.tracing import trace, where
from .light import Held, Later, by_rows, is_heavy, lightened

Gradients = list[Any]
"""One array for each output of a node."""
Pull = Callable[["Ran", Any], Sequence[Any]]
"""From a step and the gradient of its output (a tuple for several) to those of its arguments."""


def _same(gradient: Any) -> Any:
    return gradient


@dataclass
class Ran:
    """One op as it ran: its node, and what it was given. `place` are the scopes around it, `point` the traced value
    that it makes or goes into, `role` its name in its layer. `wanted`: the arguments whose gradients are asked for,
    where not all are. `rule` stands in for its definition's own rule, and `after` is a change of what any rule gives,
    however it is changed.
    """

    node: Node
    arguments: tuple[Any, ...]
    outputs: tuple[Any, ...]
    place: str
    point: str = ""
    role: str = ""
    wanted: tuple[bool, ...] | None = None
    rule: Callable[[Any], Sequence[Any]] | None = None
    after: Callable[[Ran, Any], Sequence[Any]] | None = None

    @property
    def op(self) -> Op:
        """What ran."""
        assert self.node.op is not None
        return self.node.op

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Where the arguments came from that get a gradient."""
        return self.node.edges or ()

    @property
    def options(self) -> dict[str, Any]:
        """What the op was given beside arrays, defaults included."""
        return {**self.op.defaults, **self.node.options}

    @property
    def residuals(self) -> tuple[Any, ...]:
        """What the op's own rule kept."""
        return tuple([r.make() if type(r) is Later else r for r in self.node.arrays()])

    def shape(self, position: int) -> tuple[int, ...] | None:
        """That of an argument, which need not be at hand; None for what is no array."""
        return getattr(tuple.__getitem__(self.arguments, position), "shape", None)

    def pull(self, gradient: Any, residuals: Sequence[Any] | None = None) -> Sequence[Any]:
        """The gradients that the op's definition gives, before they are summed over broadcast axes."""
        if self.rule is not None and residuals is None:
            return self.rule(gradient)
        needs = self.node.needs if self.wanted is None else self.wanted
        unbiased = tuple.__len__(self.arguments) < 4 or tuple.__getitem__(self.arguments, 3) is None
        if residuals is None and unbiased and is_heavy(self.node.residuals or ()):
            kept = self.node.residuals or ()
            return by_rows(self.op.definition.pull, gradient, kept, self.options, needs)  # type: ignore[no-any-return]
        given = self.residuals if residuals is None else residuals
        return self.op.definition.pull(gradient, given, self.options, needs)

    def fit(self, position: int, gradient: Any) -> Any:
        """A gradient summed over the axes along which the argument was broadcast; None stands for zeros."""
        shape, given = self.shape(position) or (), tuple.__getitem__(self.arguments, position)
        library = given.library if isinstance(given, Held) else xp(given)
        if gradient is None:
            return library.zeros(shape)
        gradient = library.asarray(gradient)
        fitted = gradient if gradient.shape == shape else unbroadcast(gradient, shape)
        if fitted is None:
            raise ValueError(f"a gradient of shape {gradient.shape} for an argument of shape {shape}")
        return fitted

    def argument(self, position: int) -> str:
        """The name of an argument."""
        names = self.op.arrays
        return names[position] if position < len(names) and not self.op.traits.variadic else f"part {position + 1}"


class Graph:
    """Leaves, which are paths, and steps, by number in the order of the run.

    `loss` maps the number of a node that makes outputs to (output, cotangent, name) of each. `upstream` has of each
    node the leaves that it depends on, one bit each, itself included; `consumers` the steps that use what it makes;
    `ready` is the step on the way back after which nothing more is added to a leaf's gradient;
    `arriving` and `sent` are the gradients of the unchanged walk, arrays of `library` as the cotangents are.
    """

    def __init__(self, nodes: Mapping[Node, Ran | str], starts: Mapping[Node, list[tuple[int, Any, str]]]) -> None:
        self.library = next((xp(cotangent) for given in starts.values() for _, cotangent, _ in given), np)
        self.nodes = {node.serial: nodes[node] for node in sorted(nodes, key=lambda node: node.serial)}
        self.shapes = {node.serial: [slot.shape for slot in node.outputs] for node in nodes}
        self.loss = {node.serial: given for node, given in starts.items() if node in nodes}
        self.consumers: dict[int, list[tuple[int, Edge]]] = {i: [] for i in self.nodes}
        self.upstream: dict[int, int] = {}
        for i, node in self.nodes.items():
            self.upstream[i] = 1 << len(self.upstream) if isinstance(node, str) else 0
            for edge in node.edges if isinstance(node, Ran) else ():
                self.consumers[edge.node.serial].append((i, edge))
                self.upstream[i] |= self.upstream[edge.node.serial]
        self.leaves = {node: self.upstream[i] for i, node in self.nodes.items() if isinstance(node, str)}
        self.ready = {
            node: min((step for step, _ in self.consumers[i]), default=0)
            for i, node in self.nodes.items()
            if isinstance(node, str)
        }
        self.arriving: dict[int, Gradients] = {}
        self.sent: dict[tuple[int, int], Any] = {}

    @property
    def steps(self) -> list[tuple[int, Ran]]:
        """Steps with their numbers."""
        return [(i, node) for i, node in self.nodes.items() if isinstance(node, Ran)]

    def walk(self, after: Callable[[Any], Any] = _same, pulls: Mapping[str, Pull] | None = None) -> dict[str, Any]:
        """All the way back: gradients by leaf. `after` is applied to every gradient sent, `pulls` are other rules."""
        self.arriving, self.sent = {}, {}
        every = {i: (pulls or {}).get(step.op.name, Ran.pull) for i, step in self.steps}
        return self._back(every, set(self.nodes), self.arriving, self.sent, after=after)

    def again(
        self, changes: Mapping[int, Pull], loss: float | Mapping[str, float] = 1.0, until: int = 0
    ) -> dict[str, Any]:
        """Gradients of the leaves that these changed steps, or a changed factor on the loss, make different.

        With `until` the walk ends at the step of that number, and gives the leaves that no earlier step uses.
        """
        starts = {i for i, given in self.loss.items() if any(_of(loss, name) != 1.0 for _, _, name in given)}
        return self._back(changes, starts, {}, {}, loss, until=until)

    def under(self, changes: Mapping[int, Pull], *, after: bool = False) -> Graph:
        """The graph whose unchanged walk has these steps changed; what is changed again goes on from there.

        `after`: these changes are made of what is changed again.
        """
        arriving: dict[int, Gradients] = {}
        sent: dict[tuple[int, int], Any] = {}
        self._back(changes, set(), arriving, sent)
        made = copy(self)
        made.nodes = dict(self.nodes)
        for i, change in changes.items():
            step = self.nodes[i]
            assert isinstance(step, Ran)
            made.nodes[i] = replace(step, after=change) if after else replace(step, rule=partial(change, step))
        made.arriving, made.sent = {**self.arriving, **arriving}, {**self.sent, **sent}
        return made

    def _back(
        self,
        changes: Mapping[int, Pull],
        touched: set[int],
        arriving: dict[int, Gradients],
        sent: dict[tuple[int, int], Any],
        loss: float | Mapping[str, float] = 1.0,
        after: Callable[[Any], Any] = _same,
        until: int = 0,
    ) -> dict[str, Any]:
        """A walk through the steps that are changed and all that other gradients arrive at, which `touched` begins.

        `arriving` and `sent` take what arrives and what is sent on it.
        """
        found: dict[str, Any] = {}
        for i in reversed(self.nodes):
            if i not in changes and i not in touched:
                continue
            node = self.nodes[i]
            if (self.ready[node] if isinstance(node, str) else i) < until:
                continue
            gradients = [after(g) for g in self._sum(i, sent, loss)] if i in touched else self.arriving[i]
            arriving[i] = gradients
            if isinstance(node, str):
                found[node] = gradients[0]
                continue
            made = _sent(node, changes.get(i, Ran.pull), gradients[0] if len(gradients) == 1 else tuple(gradients))
            for edge in node.edges:
                sent[i, edge.position] = after(node.fit(edge.position, made[edge.position]))
                touched.add(edge.node.serial)
        return found

    def _sum(self, i: int, sent: Mapping[tuple[int, int], Any], loss: float | Mapping[str, float]) -> Gradients:
        """What arrives at the outputs of a node."""
        total: Gradients = [None for _ in self.shapes[i]]
        for output, cotangent, name in self.loss.get(i, ()):
            total[output] = _plus(total[output], cotangent * _of(loss, name))
        for step, edge in self.consumers[i]:
            key = (step, edge.position)
            total[edge.output] = _plus(total[edge.output], sent[key] if key in sent else self.sent[key])
        return [self.library.zeros(shape) if g is None else g for g, shape in zip(total, self.shapes[i])]

    def reached(self, i: int, position: int) -> int:
        """The leaves that the gradient of this argument goes to."""
        edges = self.edges(i)
        return next((self.upstream[edge.node.serial] for edge in edges if edge.position == position), 0)

    def edges(self, i: int) -> tuple[Edge, ...]:
        """Those of a step; a leaf has none."""
        node = self.nodes[i]
        return node.edges if isinstance(node, Ran) else ()


def _sent(step: Ran, change: Pull, gradient: Any) -> Sequence[Any]:
    if step.after is None:
        return change(step, gradient)
    inner = replace(step, after=None)
    return step.after(replace(inner, rule=partial(change, inner)), gradient)


def _plus(total: Any, part: Any) -> Any:
    return part if total is None else total + part


def _of(loss: float | Mapping[str, float], name: str) -> float:
    return loss if isinstance(loss, float) else loss.get(name, 1.0)


def record(
    run: Callable[[Tree, Mapping[str, Any]], Mapping[str, Any]],
    params: Tree,
    inputs: Mapping[str, Any],
    cotangents: Mapping[str, Any],
    *,
    light: bool = False,
) -> Graph:
    """The graph of `run(params, inputs)`, whose floating-point arrays are the leaves, by path and by "input/<name>".

    `light`: it keeps no more than the engine's rules need.

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
    kept = lightened if light else lambda event: event
    with (
        kernels("plain"),  # whose rules keep what their equations say
        trace(
            lambda name: not name.endswith(("weights", "softmax")),
            tensors=True,
            kept=lambda name, value: value.node if type(value) is Tensor else None,
        ) as traced,
        observe(lambda event: events.append((kept(event), where())) if event.node is not None else None),
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
    """Of all that ran, what leads to the outputs."""
    points: dict[Node, str] = {}
    for name, node in traced.items():
        if node is not None:
            points.setdefault(node, name)
    needed, nodes = set(starts), dict[Node, Ran | str](leaves)
    for event, place in reversed(events):
        node = event.node
        if node is not None and node in needed:
            needed.update(edge.node for edge in node.edges or ())
            nodes[node] = Ran(node, event.arguments, event.outputs, place, points.get(node, ""))
    graph = Graph(nodes, starts)
    _name(graph)
    return graph


def _name(graph: Graph) -> None:
    """Steps between two points take the name of the one that they lead to, and each a role: its name in its layer."""
    for i, step in reversed(graph.nodes.items()):
        if isinstance(step, Ran) and not step.point:
            following = (graph.nodes[n] for n, _ in graph.consumers[i])
            inside = [n.point for n in following if isinstance(n, Ran) and n.point.startswith(step.place)]
            outputs = [f"output.{name}" for _, _, name in graph.loss.get(i, ())]
            step.point = (inside or outputs or [step.place])[0] or step.place
    seen: dict[tuple[str, str, str], int] = {}
    for _, step in graph.steps:
        paths = [n for e in step.edges if e.position and isinstance(n := graph.nodes[e.node.serial], str)]
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
