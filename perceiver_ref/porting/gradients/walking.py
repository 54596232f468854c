"""Walks back through a large graph, of which little is kept: the sums that have arrived, and only where all meet.

A walk may begin anew where it had passed a `cut`, a step at which no other sum is on its way but of what all layers
are given. It may go only to some of the leaves, and end early; what does not lead there is not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ...autograd.backend import to_host
from .graph import Gradients, Graph, Pull, Ran

LONG = 40
"""What has waited for so many steps is no branch of a layer, but what all layers are given."""
Arrived = Callable[[str, Any], bool]
"""Told a leaf and its whole gradient, once all of it has arrived; true ends the walk."""


class Walks:
    """`cuts` has what arrived at each cut of the first walk, and `cut_below` and `cut_above` find them."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.cuts: dict[int, dict[int, Gradients]] = {}
        self.last: dict[str, int] = {}
        """The last step of the run that uses each leaf, at which a walk comes to it first"""
        self.uses = {str(node): graph.consumers[i] for i, node in graph.nodes.items() if isinstance(node, str)}
        """The steps, and edges, that use each leaf"""
        self._first: dict[int, int] = {}
        for i, node in graph.nodes.items():
            if isinstance(node, str):
                uses = [step for step, _ in graph.consumers[i]]
                self.last[node], self._first[i] = max(uses, default=i), min(uses, default=i)
        self.first = {node: self._first[i] for i, node in graph.nodes.items() if isinstance(node, str)}
        """And the first, after which nothing more comes"""

    def above(self, i: int) -> int | None:
        """The nearest cut at which a walk may begin that is to change step `i`; None for the loss."""
        return min((cut for cut in self.cuts if cut >= i), default=None)

    def below(self, i: int) -> int:
        """The nearest cut behind step `i`; 0 where there is none."""
        return max((cut for cut in self.cuts if cut < i), default=0)

    def walk(
        self,
        arrived: Arrived,
        changes: Mapping[int, Pull] | None = None,
        within: int = -1,
        begin: int | Mapping[int, Gradients] | None = None,
        end: int = 0,
        *,
        noted: bool = False,
        passed: dict[int, Gradients] | None = None,
    ) -> dict[str, Any]:
        """From the loss or the cut `begin` to the leaves `within`, as bits, and not beyond step `end`.

        Gives of the leaves that are not finished what has arrived, on the host, as `arrived` is given it. `noted`: cuts
        are kept. `begin` may also be gradients by node: what they alone come to. `passed` takes what arrives at steps.
        """
        graph, changes = self.graph, changes or {}
        if isinstance(begin, Mapping):
            waiting = dict(begin)
        else:
            waiting = dict(self.cuts[begin]) if begin is not None else self._starts()
        rest: dict[str, Any] = {}
        partly: dict[int, Any] = {}
        since: dict[int, int] = {}
        for i in reversed(graph.nodes):
            step = graph.nodes[i]
            if isinstance(step, str) or i < end:
                break
            gradients = waiting.pop(i, None)
            if gradients is None or not graph.upstream[i] & within:
                continue
            if noted and all(since.get(source, i) >= i + LONG for source in waiting):
                self.cuts[i] = {**waiting, i: gradients}
            shapes = graph.shapes[i]
            whole = [graph.library.zeros(s, _dtype(gradients)) if g is None else g for g, s in zip(gradients, shapes)]
            if passed is not None:
                passed[i] = whole
            for source, output, gradient in self._sent(i, step, whole, changes, within):
                node = graph.nodes[source]
                if isinstance(node, str):
                    partly[source] = partly[source] + gradient if source in partly else gradient
                    continue
                since.setdefault(source, i)
                sums = waiting.setdefault(source, [None] * len(graph.shapes[source]))
                waiting[source] = [
                    s if k != output else gradient if s is None else s + gradient for k, s in enumerate(sums)
                ]
            for edge in step.edges:
                source = edge.node.serial
                last = source in partly and self._first[source] == i
                if last and arrived(str(graph.nodes[source]), to_host(partly.pop(source))):
                    return rest
        rest.update((str(graph.nodes[source]), to_host(gradient)) for source, gradient in partly.items())
        return rest

    def _sent(self, i: int, step: Ran, gradients: Gradients, changes: Mapping[int, Pull], within: int) -> Any:
        """(node, output, gradient) of the arguments that lead to the leaves asked for."""
        graph = self.graph
        edges = [edge for edge in step.edges if graph.upstream[edge.node.serial] & within]
        positions = {edge.position for edge in edges}
        wanted = tuple(need and p in positions for p, need in enumerate(step.node.needs))
        given = gradients[0] if len(gradients) == 1 else tuple(gradients)
        asked = replace(step, wanted=wanted)
        made = changes.get(i, Ran.pull)(asked, given)
        for edge in edges:
            gradient = made[edge.position]
            if gradient is not None:
                yield edge.node.serial, edge.output, step.fit(edge.position, gradient)

    def _starts(self) -> dict[int, Gradients]:
        made: dict[int, Gradients] = {}
        for i, given in self.graph.loss.items():
            sums: Gradients = [None] * len(self.graph.shapes[i])
            for output, cotangent, _ in given:
                sums[output] = cotangent if sums[output] is None else sums[output] + cotangent
            made[i] = sums
        return made


def _dtype(gradients: Gradients) -> Any:
    return next(g.dtype for g in gradients if g is not None)
