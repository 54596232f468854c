"""What a wrong backward pass is: other gradients sent by some of its steps, or made of the finished gradients."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ...deviations.base import groups, layer_of
from ..graph import Graph, Pull, Ran

Place = tuple[int, int]
"""The number of a step and the position of an argument: where a gradient is sent."""
Rule = Callable[[Ran, Any], Mapping[int, Any]]
"""From a step and the gradient of its output to the wrong gradients, by the position of the argument."""


@dataclass(frozen=True)
class Wrong:
    """One way in which a backward pass could be wrong: cause, variant in words, and the gradients that it concerns.

    `changes` are the rules of the steps concerned. Those of `flow` have none: a factor is found for them instead.
    """

    cause: str
    variant: str
    places: tuple[Place, ...]
    changes: Mapping[int, Pull] = field(default_factory=dict)


@dataclass(frozen=True)
class Slip:
    """A wrong backward rule of some ops: which, at which arguments, and where it can be at all."""

    cause: str
    variant: str
    ops: tuple[str, ...]
    positions: tuple[int, ...]
    rule: Rule
    when: Callable[[Ran], bool] = lambda step: True

    def candidates(self, graph: Graph) -> Iterator[Wrong]:
        """This rule everywhere, in one part, layer or place."""
        chosen = [i for i, step in graph.steps if step.op.name in self.ops and self.when(step)]
        for label, steps in sets(graph, chosen):
            sent = ((i, edge.position) for i in steps for edge in graph.edges(i))
            places = tuple(place for place in sent if place[1] in self.positions)
            if places:
                yield Wrong(self.cause, f"{self.variant}, {label}", places, dict.fromkeys(steps, changed(self.rule)))


def changed(rule: Rule) -> Pull:
    """A step's gradients with those of the rule in place of some."""

    def pull(step: Ran, gradient: Any) -> Sequence[Any]:
        made = list(step.pull(gradient))
        for position, other in rule(step, gradient).items():
            if position < len(made):
                made[position] = other
        return made

    return pull


def sets(graph: Graph, steps: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
    """The sets of these steps that an implementation's code would change together, with words for where they are.

    Everywhere, in one part of the model, in all steps of one role and of it in one part, in one layer, in a layer that
    is repeated with the same weights, and each alone.
    """
    seen: set[frozenset[int]] = set()

    def new(label: str, chosen: list[int]) -> Iterator[tuple[str, list[int]]]:
        if chosen and frozenset(chosen) not in seen:
            seen.add(frozenset(chosen))
            yield label, chosen

    roles: dict[str, list[int]] = {}
    for i in steps:
        roles.setdefault(_step(graph, i).role, []).append(i)
    for role, members in [("", list(steps)), *roles.items()]:
        places = [_step(graph, i).place for i in members]
        for label, match, _ in groups(places) if places else ():
            yield from new(f"{role} {label}".strip(), [i for i in members if match(_step(graph, i).place)])
        for kind in (layer_of, _repeated):
            by_kind: dict[str, list[int]] = {}
            for i, place in zip(members, places):
                by_kind.setdefault(kind(place), []).append(i)
            for name, chosen in by_kind.items():
                yield from new(f"{role} in {name or 'the outermost layer'}".strip(), chosen)
    for i in steps:
        yield from new(f"at {_step(graph, i).point}", [i])


def _step(graph: Graph, i: int) -> Ran:
    step = graph.nodes[i]
    assert isinstance(step, Ran)
    return step


def _repeated(place: str) -> str:
    """The scopes of a layer without the number of the block."""
    return re.sub(r"(blocks|cross_attention)\.\d+", r"\1.*", layer_of(place))


def composed(first: Mapping[int, Pull], then: Mapping[int, Pull]) -> dict[int, Pull]:
    """The changes of both; of a step that both change, the second goes on from what the first gives."""

    def both(one: Pull, other: Pull, step: Ran, gradient: Any) -> Sequence[Any]:
        return other(replace(step, rule=partial(one, step)), gradient)

    shared = {i: partial(both, first[i], change) for i, change in then.items() if i in first}
    return {**first, **then, **shared}


def scaled(places: Sequence[Place], factor: float | Callable[[Any], Any]) -> dict[int, Pull]:
    """The gradients sent to these places times a factor, or as a function makes them."""
    by_step: dict[int, set[int]] = {}
    for i, position in places:
        by_step.setdefault(i, set()).add(position)
    return {i: partial(_scaled, positions, factor) for i, positions in by_step.items()}


def _scaled(positions: set[int], factor: float | Callable[[Any], Any], step: Ran, gradient: Any) -> Sequence[Any]:
    function = factor if callable(factor) else lambda g: g * factor
    made = list(step.pull(gradient))
    return [function(step.fit(p, g)) if p in positions and g is not None else g for p, g in enumerate(made)]
