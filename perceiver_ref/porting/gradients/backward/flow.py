"""Gradients that are stopped, turned round or scaled on their way, and those of shared values that do not add up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ...rounding.grid import cast_to
from ..graph import Graph, Ran
from .base import Place, Wrong, scaled, sets

_TOGETHER = {"attention": ((0, 1), (1, 2), (0, 1, 2)), "linear": ((1, 2),), "layer_norm": ((1, 2),)}
"""Arguments whose gradients a mistake may concern together: queries and keys, keys and values, weights and biases."""


def flows(graph: Graph) -> Iterator[Wrong]:
    """The gradients that one line of code sends: of an argument or a value, in one place or in many alike."""
    seen: set[frozenset[Place]] = set()
    for wrong in (*_single(graph), *_values(graph), *_alike(graph)):
        if frozenset(wrong.places) not in seen:
            seen.add(frozenset(wrong.places))
            yield wrong


def _single(graph: Graph) -> Iterator[Wrong]:
    for i, step in reversed(graph.steps):
        for edge in step.edges:
            yield Wrong("", f"{described(graph, i, edge.position)} at {step.point}", ((i, edge.position),))


def _values(graph: Graph) -> Iterator[Wrong]:
    """A value with all its uses; and those of one role in all layers, such as the stream between two layers."""
    by_role: dict[str, list[tuple[str, list[Place]]]] = {}
    for n, node in graph.nodes.items():
        uses = _uses(graph, n)
        if len(uses) < 2 and isinstance(node, str):
            continue
        name = node if isinstance(node, str) else node.point
        if len(uses) > 1:
            yield Wrong("", f"to {name} from all its uses", tuple(uses))
        if isinstance(node, Ran):
            by_role.setdefault(node.role, []).append((name, uses))
    for alike in by_role.values():
        if len(alike) > 1:
            yield Wrong("", f"to {alike[0][0]} and its like", tuple(p for _, uses in alike for p in uses))
    inputs = [place for n, node in graph.nodes.items() for place in _uses(graph, n) if _is_input(node)]
    if inputs:
        yield Wrong("", "to the inputs", tuple(inputs))


def _is_input(node: Ran | str) -> bool:
    return isinstance(node, str) and node.startswith("input/")


def _uses(graph: Graph, n: int) -> list[Place]:
    return [(i, edge.position) for i, edge in graph.consumers[n]]


def _alike(graph: Graph) -> Iterator[Wrong]:
    by_op: dict[str, list[int]] = {}
    for i, step in graph.steps:
        by_op.setdefault(step.op.name, []).append(i)
    for op, steps in by_op.items():
        positions = sorted({edge.position for i in steps for edge in graph.edges(i)})
        for chosen in (*((p,) for p in positions), *_TOGETHER.get(op, ())):
            fit = [i for i in steps if set(chosen) <= {edge.position for edge in graph.edges(i)}]
            for label, members in sets(graph, fit):
                names = " and ".join(_argument(graph, members[0], p) for p in chosen)
                yield Wrong("", f"through {names} of {op}, {label}", tuple((i, p) for i in members for p in chosen))


def _argument(graph: Graph, i: int, position: int) -> str:
    step = graph.nodes[i]
    return step.argument(position) if isinstance(step, Ran) else ""


def described(graph: Graph, i: int, position: int) -> str:
    """A place in words."""
    step = graph.nodes[i]
    assert isinstance(step, Ran)
    source = next((graph.nodes[edge.node.serial] for edge in step.edges if edge.position == position), "")
    of = f" ({source})" if isinstance(source, str) and source else ""
    return f"through {step.argument(position)}{of} of {step.op.name}"


def shared(graph: Graph) -> Iterator[Wrong]:
    """Of a parameter or value that is used several times, the gradient of one use alone, or their mean."""
    leaves = [n for n, node in graph.nodes.items() if isinstance(node, str) and len(graph.consumers[n]) > 1]
    families: dict[str, list[int]] = {}
    for n in leaves:
        parts = str(graph.nodes[n]).split("/")
        for depth in range(len(parts) + 1):
            families.setdefault("/".join(parts[:depth]), []).append(n)
    seen: set[frozenset[int]] = set()
    for name, members in families.items():
        if frozenset(members) in seen:
            continue
        seen.add(frozenset(members))
        yield from _once(graph, f"to {name or 'shared parameters'}", members)
    for n, node in graph.nodes.items():
        if isinstance(node, Ran) and len(graph.consumers[n]) > 1:
            yield from _once(graph, f"to {node.point}", [n])


def _once(graph: Graph, label: str, members: list[int]) -> Iterator[Wrong]:
    uses = {n: [(i, edge.position) for i, edge in graph.consumers[n]] for n in members}
    several = max(map(len, uses.values())) > 2
    kept: dict[str, Callable[[int, int], bool]] = {
        "the last use alone": lambda k, count: k == count - 1,
        "the first use alone": lambda k, count: k == 0,
        **({"all but the first use": lambda k, count: k > 0} if several else {}),
        **({"all but the last use": lambda k, count: k < count - 1} if several else {}),
    }
    for what, keep in kept.items():
        places = tuple(place for own in uses.values() for k, place in enumerate(own) if not keep(k, len(own)))
        yield Wrong("gradient-not-accumulated", f"{what}, {label}", places, scaled(places, 0.0))
    counts = {len(own) for own in uses.values()}
    if len(counts) == 1 and all(isinstance(graph.nodes[n], str) for n in members):
        places = tuple(place for own in uses.values() for place in own)
        variant = f"the mean of {min(counts)} uses, {label}"
        yield Wrong("gradient-not-accumulated", variant, places, scaled(places, 1 / min(counts)))


def narrowed(wrong: Wrong) -> Iterator[Wrong]:
    """The gradients of a flow rounded to a narrower format."""
    for name in ("float16", "bfloat16", "float32"):
        changes = scaled(wrong.places, cast_to(name))
        yield Wrong("gradient-dtype", f"{name}, {wrong.variant}", wrong.places, changes)


def factor_said(graph: Graph, places: Sequence[Place], factor: float, error: float) -> str:
    """A factor as a number and, where one of the sizes there gives it, what it is."""
    for value, words in _known(graph, places):
        if abs(factor / value - 1) <= error:
            return f"x {value:.6g} = {words}"
    return f"x {factor:.6g}"


def _known(graph: Graph, places: Sequence[Place]) -> Iterator[tuple[float, str]]:
    sizes: dict[int, str] = {}
    for i, _ in places:
        step = graph.nodes[i]
        if not isinstance(step, Ran):
            continue
        if step.op.name == "attention":
            sizes.setdefault((step.shape(0) or (0,))[-1], "channels of a head")
            sizes.setdefault((step.shape(1) or (0, 0))[-2], "keys")
        shape = step.node.outputs[0].shape
        for size, what in zip(shape, ("the batch", *("size of an axis" for _ in shape))):
            sizes.setdefault(size, what)
        sizes.setdefault(math.prod(shape[:-1]), "rows")
        sizes.setdefault(math.prod(shape), "elements")
    for size, what in {2: "", **sizes}.items():
        if size < 2:
            continue
        of = f" ({what})" if what else ""
        yield 1 / size, f"1/{size}{of}"
        yield float(size), f"{size}{of}"
        yield -1 / size, f"-1/{size}{of}"
        yield 1 / math.sqrt(size), f"1/sqrt({size}){of}"
        yield math.sqrt(size), f"sqrt({size}){of}"


def norm_of(arrays: Sequence[Any]) -> float:
    """The norm of all of them together."""
    return float(np.sqrt(sum(float(np.square(a).sum()) for a in arrays)))
