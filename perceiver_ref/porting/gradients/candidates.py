"""What is tried as one of two wrong backward rules: flows, whose factor is to be found, and the rules of the tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ...autograd.backend import to_host
from .backward import Place, Wrong, flows, scaled
from .graph import Graph
from .search import GradientSearch
from .target import Target

EXACT = 1e-12
"""So little of a gradient's size is none: float64 leaves less."""


def unmoved(target: Target) -> dict[Place, int]:
    """By place on the way to keys, the leaves that nothing comes to on it, though it leads there.

    What is added to all keys alike, as an offset of their norm, changes no weights.
    """
    made: dict[Place, int] = {}
    graph = target.graph
    for i, step in graph.steps:
        edge = next((edge for edge in step.edges if edge.position == 1), None)
        if step.op.name != "attention" or edge is None:
            continue
        moved = {path: to_host(gradient) for path, gradient in graph.again(scaled([(i, 1)], 0.0)).items()}
        still = 0
        for path, bits in graph.leaves.items():
            size = float(np.abs(target.base[path]).max(initial=0.0))
            if path in moved and float(np.abs(moved[path] - target.base[path]).max(initial=0.0)) <= EXACT * size:
                still |= bits
        places: list[Place] = [(i, 1)]
        n = edge.node.serial
        while len(graph.consumers[n]) == 1 and graph.edges(n):
            places += [(n, edge.position) for edge in graph.edges(n)]
            n = graph.edges(n)[0].node.serial
        made |= dict.fromkeys(places, still)
    return made


def candidates(search: GradientSearch) -> Iterator[Wrong]:
    """Flows, whose cause is to be found, and the rules of the tables."""
    graph = search.graph
    ends = tuple((i, edge.position) for i, step in graph.steps if i in graph.loss for edge in step.edges)
    seen: set[frozenset[Place]] = set()
    for flow in (Wrong("", "of the loss", ends), *flows(graph)):
        same = frozenset(_first_of_chain(graph, place) for place in flow.places)
        if same in seen:
            continue
        seen.add(same)
        yield replace(flow, changes=scaled(flow.places, 0.0))
    yield from search.candidates()


def _first_of_chain(graph: Graph, place: Place) -> Place:
    """The place where a factor does the same, as far upstream as gradients go through one argument after another."""
    while True:
        n = next(edge.node.serial for edge in graph.edges(place[0]) if edge.position == place[1])
        edges = graph.edges(n)
        if len(graph.consumers[n]) != 1 or len(edges) != 1 or n in graph.loss:
            return place
        place = (n, edges[0].position)
