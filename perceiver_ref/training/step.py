"""One step of training: gradients of a batch, in parts, over processes, in float16 with a scaled loss; one update."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..autograd import backend as backends
from ..autograd import ops, tree, value_and_grad
from ..autograd.backend import Array, as_array, xp
from ..autograd.core import array_of
from ..autograd.tree import Tree
from ..models.call import Call
from .distributed import ALONE, Reducer
from .recipe import Task

WEIGHT = "weight"
"""Among the values to log, what a part of a batch counts for in the mean of all parts; without it, its rows do."""


@dataclass(frozen=True)
class Way:
    """How a step computes: in so many parts, one after the other; among the processes of `reducer`; `mixed`: numbers
    and their gradients in float16, parameters and updates in float32."""

    parts: int = 1
    reducer: Reducer = ALONE
    mixed: bool = False


def training_step(
    task: Task, structure: Tree, optimizer: Any, backend: str, way: Way = Way()
) -> Callable[..., tuple[Tree, Tree, Any, dict[str, Any]]]:
    """One step: (params by path, optimizer's state, batch, call) -> (params, state, loss, metrics).

    `structure` is a tree of the parameters. The loss and its gradients are means over the batch, whatever its parts:
    each counts as its rows do, or as its metric `weight`. Running statistics are left in `call.updates`. Nothing waits
    for a device, but for what `way` asks for.
    """
    paths = [path for path, _ in tree.leaves(structure)]
    trainable = {path for path in paths if task.trainable(path)}

    def loss(
        trained: Tree, frozen: Tree, batch: dict[str, Any], call: Call, scale: float
    ) -> tuple[Any, dict[str, Any]]:
        every = {**frozen, **trained}
        if way.mixed:
            every = {path: _half(p) for path, p in every.items()}
            batch = {key: _half(a) for key, a in batch.items()}
        value, metrics = task.loss(tree.unflatten_like(structure, [every[path] for path in paths]), batch, call)
        if not way.mixed:
            return value, {**metrics, _LOSS: value}
        value = ops.cast(value, "float32")
        return ops.multiply(value, scale), {**metrics, _LOSS: value}

    gradients_of = value_and_grad(loss, has_aux=True)

    def part_of(batch: Mapping[str, Any], trained: Tree, frozen: Tree, call: Call, scale: float) -> Part:
        placed = {k: a if a.dtype.kind in "iu" else backends.to_backend(a, backend) for k, a in batch.items()}
        (_, metrics), gradients = gradients_of(trained, frozen, placed, call, scale)
        value, weight = metrics.pop(_LOSS), metrics.pop(WEIGHT, None)
        return Part(gradients, value, metrics, task.rows(batch) if weight is None else weight)

    def step(params: Tree, state: Tree, batch: dict[str, Any], call: Call) -> tuple[Tree, Tree, Any, dict[str, Any]]:
        trained = {path: p for path, p in params.items() if path in trainable}
        frozen = {path: p for path, p in params.items() if path not in trainable}
        scale = optimizer.scale(state) if way.mixed else 1.0
        finished: Callable[[], Part]
        if way.parts == way.reducer.size == 1:
            whole = part_of(batch, trained, frozen, call, scale)
            gradients, finished = whole.gradients, lambda: whole
        else:
            gradients, finished = _in_parts(task, way, batch, call, lambda b, c: part_of(b, trained, frozen, c, scale))
        trained, state = optimizer.step(trained, gradients, state)
        made = finished()
        return {path: trained.get(path, p) for path, p in params.items()}, state, made.loss, made.metrics

    return step


_LOSS = "\0loss"


@dataclass
class Part:
    """Of a part of a batch: means, and what they count for."""

    gradients: dict[str, Array]
    loss: Any
    metrics: dict[str, Any]
    weight: Any

    def sums(self) -> dict[str, Any]:
        """What is added over parts beside gradients, by key."""
        weight = np.float64(float(self.weight))
        return {
            "loss": float(self.loss) * weight,
            **{f"metric/{name}": float(m) * weight for name, m in self.metrics.items()},
        }


def _in_parts(
    task: Task, way: Way, batch: Mapping[str, Any], call: Call, compute: Callable[[Mapping[str, Any], Call], Part]
) -> tuple[dict[str, Array], Callable[[], Part]]:
    """The means over parts: of gradients, and a function that gives those of all else.

    This process computes its own parts, and every sum is taken in one order. Numbers of the loss and metrics wait for a
    device, so that an update is better begun before they are asked for.
    """
    rank, size = way.reducer.rank, way.reducer.size
    parts: list[Part] = []
    gradients: dict[str, Array] = {}
    scale = 1.0
    running = call.state
    for i in range(way.parts):
        number = rank * way.parts + i
        some = task.split(batch, number, size * way.parts)
        empty = not task.rows(some)
        if empty:  # fewer rows than parts: it counts for nothing, but has the shapes of one that does
            some = task.split(batch, size * way.parts - 1, size * way.parts)
        if empty and parts:
            continue
        own = Call(True, running, None if call.key is None else (*_tuple(call.key), number))
        made = compute(some, own)
        if empty:
            made.weight = 0
        elif own.updates and running is not None:
            running = merged(running, own.updates)
        parts.append(replace(made, gradients={}))
        dtypes = {path: g.dtype for path, g in made.gradients.items()}
        if way.parts == 1:  # scaled all together, below
            gradients, scale = made.gradients, float(made.weight)
            continue
        for path, g in made.gradients.items():
            weighted = g * _like(made.weight, g)
            gradients[path] = as_array(gradients[path] + weighted) if path in gradients else weighted
    weight = float(way.reducer.total({"weight": np.float64(sum(float(part.weight) for part in parts))})["weight"])
    summed = way.reducer.total(gradients, scale / weight)

    def finished() -> Part:
        total = dict.fromkeys(parts[0].sums(), np.float64(0))
        for part in parts:
            total = {key: total[key] + value for key, value in part.sums().items()}
        if running is not call.state:
            total |= {f"state/{path}": array / size for path, array in tree.leaves(running)}
        total = way.reducer.total(total)
        if running is not call.state:
            kept = [total[f"state/{path}"] for path, _ in tree.leaves(running)]
            call.updates.update(tree.unflatten_like(running, kept))
        metrics = {name: float(total[f"metric/{name}"]) / weight for name in parts[0].metrics}
        return Part({}, float(total["loss"]) / weight, metrics, weight)

    return {path: summed[path].astype(dtypes[path], copy=False) for path in summed}, finished


def merged(state: Tree, updates: Tree) -> Tree:
    """Running statistics with those that a call updated in their place."""
    if isinstance(state, dict):
        return {key: merged(part, updates[key]) if key in updates else part for key, part in state.items()}
    return updates


def _tuple(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def _like(weight: Any, array: Array) -> Any:
    """A weight as a number that leaves an array's dtype as it is."""
    if isinstance(weight, (int, float)):
        return float(weight)
    return xp(array).asarray(array_of(weight)).astype(array.dtype)


def _half(value: Any) -> Any:
    return ops.cast(value, "float16") if getattr(value, "dtype", None) in (np.float32, np.float64) else value
