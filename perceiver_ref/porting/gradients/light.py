"""What a recorded step keeps in a graph that would not fit otherwise: what the engine's own rules need, and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any
from weakref import ref

import numpy as np

from ...autograd.backend import is_array, xp
from ...autograd.observing import Event
from ...autograd.ops.attention import probabilities

PART = 1 << 21
"""Weights of attention that are made at a time, where there are more"""


class Later:
    """An array that is made again each time that it is needed."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


@dataclass
class Held:
    """An array that may not be at hand."""

    shape: tuple[int, ...]
    library: ModuleType
    get: Callable[[], Any]


class Lazy(tuple[Any, ...]):
    """Arrays of which some are `Held`; raises `ValueError` when one is asked for that is kept no more."""

    def __getitem__(self, index: Any) -> Any:
        return _whole(super().__getitem__(index))

    def __iter__(self) -> Iterator[Any]:
        return map(_whole, super().__iter__())


def _whole(item: Any) -> Any:
    if not isinstance(item, Held):
        return item
    array = item.get()
    if array is None:
        raise ValueError("this array is not kept")
    return array


def lightened(event: Event) -> Event:
    """The event of a step without arrays that its rule does not need; weights of attention are made again."""
    node = event.node
    assert node is not None
    made = {edge.position for edge in node.edges or ()}
    if event.op.name == "attention" and node.residuals:
        q, k, v, _ = node.residuals
        options = {**event.op.defaults, **node.options}
        bias = event.arguments[3] if len(event.arguments) > 3 else None
        weights = partial(probabilities, q, k, bias, options["mask"], options["scale"], options["masked_rows"])
        node.residuals = (q, k, v, Later(weights))
    held = {id(r): partial(_same, r) for r in node.residuals or () if is_array(r)}
    given = [_held(a, held) if i in made else a for i, a in enumerate(event.arguments)]
    again = node.again
    outputs = [Held(a.shape, xp(a), again or ref(a)) if is_array(a) else a for a in event.outputs]
    return event._replace(arguments=Lazy(given), outputs=Lazy(outputs))


def _held(array: Any, held: dict[int, Any]) -> Any:
    return Held(array.shape, xp(array), held.get(id(array)) or ref(array)) if is_array(array) else array


def _same(array: Any) -> Any:
    return array


def is_heavy(residuals: tuple[Any, ...]) -> bool:
    """Whether these are of an attention whose weights are made again and are many."""
    if not residuals or type(residuals[-1]) is not Later:
        return False
    q, k = residuals[:2]
    return bool(q.size // q.shape[-1] * k.shape[-2] > PART)


def by_rows(
    pull: Callable[..., Any],
    gradient: Any,
    residuals: tuple[Any, ...],
    options: dict[str, Any],
    needs: tuple[bool, ...],
) -> Any:
    """The gradients of queries, keys and values of an attention, from a few queries at a time: a query's gradient is
    its own, those of keys and values are sums."""
    q, k, v = residuals[:3]
    rows = max(PART * q.shape[-2] // max(q.size // q.shape[-1] * k.shape[-2], 1), 1)
    made: list[Any] = [[], 0.0, 0.0]
    for i in range(0, q.shape[-2], rows):
        part = np.s_[..., i : i + rows, :]
        mask = options["mask"]
        if mask is not None and mask.ndim > 1 and mask.shape[-2] == q.shape[-2]:
            mask = mask[part]
        chosen = {**options, "mask": mask}
        p = probabilities(q[part], k, None, mask, options["scale"], options["masked_rows"])
        dq, dk, dv, _ = pull(gradient[part], (q[part], k, v, p), chosen, needs)
        made[0].append(dq)
        made[1], made[2] = made[1] + dk, made[2] + dv
    return xp(q).concatenate(made[0], -2), made[1], made[2]
