"""Activation memory: what training keeps, and the most that inference holds.

Training: the bytes of every array that the recorded graph holds for the way back when the forward pass is done. An
array held by several ops counts once, a view counts as the whole of what it is a view of; parameters, inputs and
running statistics do not count. Gradients with respect to all parameters, none with respect to inputs; attention's
scores are computed again on the way back and not kept.

Inference: an array is alive from the op that makes it (a position table, anew for each use: from the op that first
reads it) to the last op that reads it; the outputs stay. The result is the largest sum of bytes alive during one op,
again without parameters, inputs and running statistics. Attention adds the scores that it holds while it runs: batch x
heads x queries x keys of them when computed as defined; when computed in tiles, those of one tile, as many as the CPU's
kernel says (each further thread holds a tile more). Other temporaries inside an op do not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...autograd.core import array_of
from .costs import scores_bytes
from .record import Recording, residuals
from .sketch import buffer


def kept(run: Recording) -> dict[str, int]:
    """Bytes kept for the way back, by the name of the step that made the array; a table by the first that read it."""
    graph = residuals(run)
    needed = {id(b): b for arrays in graph.values() for b in map(buffer, arrays)}
    for excluded in _uncounted(run):
        needed.pop(excluded, None)
    total: dict[str, int] = {}
    for name, event in run.steps:
        for array in (*event.outputs, *graph.get(event.node, ()), *_arrays(event.arguments)):  # type: ignore[arg-type]
            owner = needed.pop(id(buffer(array)), None)
            if owner is not None:
                total[name] = total.get(name, 0) + int(owner.nbytes)
    assert not needed, "an array is kept that no step made or read"
    return total


def peak(run: Recording, *, tiled: bool) -> int:
    """The most bytes alive at once during an inference run."""
    uncounted = _uncounted(run)
    touched = [[buffer(a) for a in (*_arrays(step.event.arguments), *step.event.outputs)] for step in run.steps]
    touched.append([buffer(array_of(out)) for out in run.outputs])
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    size: dict[int, int] = {}
    for number, owners in enumerate(touched):
        for owner in owners:
            if id(owner) not in uncounted:
                first.setdefault(id(owner), number)
                last[id(owner)] = number
                size[id(owner)] = int(owner.nbytes)
    change = [0] * (len(touched) + 1)
    for key, nbytes in size.items():
        change[first[key]] += nbytes
        change[last[key] + 1] -= nbytes
    alive = most = 0
    for number, delta in enumerate(change):
        alive += delta
        working = 0
        if number < len(run.steps) and run.steps[number].event.op.name == "attention":
            working = scores_bytes(run.steps[number].event, tiled=tiled)
        most = max(most, alive + working)
    return most


def _arrays(values: tuple[Any, ...]) -> Iterator[np.ndarray]:
    return (value for value in values if isinstance(value, np.ndarray))


def _uncounted(run: Recording) -> set[int]:
    return {id(buffer(array)) for array in (*run.params.values(), *run.given) if isinstance(array, np.ndarray)}
