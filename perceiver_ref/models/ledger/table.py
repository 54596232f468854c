"""The ledger of a model: rows by layer, and totals."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...autograd.observing import Event
from ...autograd.tree import Tree
from ...errors import InputError
from ..module import Module
from .costs import linear_flops, mixed_flops, weights_flops, weights_shape
from .memory import kept, peak
from .record import Recording, sketched
from .sketch import buffer


@dataclass(frozen=True)
class Row:
    """One layer, or several that do the same (their numbers are `*` in the name): all figures are of all of them.

    `shape` is that of one output. `parameters` count where a weight is first used, each once. `kept` are the bytes that
    training keeps of what this layer makes.
    """

    name: str
    repeats: int
    shape: tuple[int, ...]
    parameters: int
    flops: int
    kept: int


@dataclass(frozen=True)
class Ledger:
    """All rows in the order of computation, and their sums; memory in bytes, as `memory` defines it."""

    rows: tuple[Row, ...]
    parameters: int
    flops: int
    training: int
    inference: int
    inference_plain: int


def ledger(model: Module, inputs: Tree, *, dtype: Any = np.float32) -> Ledger:
    """What `model` costs on these inputs: arrays or sketches, as its `apply` takes them (see `sizes.example`).

    Raises `InputError` when they do not fit the model.
    """
    try:
        run = sketched(model, inputs, dtype, training=True)
        inference = sketched(model, inputs, dtype, training=False)
    except InputError:
        raise
    except (ValueError, IndexError) as error:
        raise InputError(f"the inputs do not fit the model: {error}") from error
    lines = _lines(run)
    rows = _merged(lines)
    return Ledger(
        rows=tuple(rows),
        parameters=sum(row.parameters for row in rows),
        flops=sum(row.flops for row in rows),
        training=sum(row.kept for row in rows),
        inference=peak(inference, tiled=True),
        inference_plain=peak(inference, tiled=False),
    )


def _lines(run: Recording) -> list[Row]:
    """A row for every name, in order."""
    unused = {id(buffer(array)): array.size for array in run.params.values()}
    memory = kept(run)
    lines: dict[str, Row] = {}

    def put(name: str, shape: tuple[int, ...], flops: int, parameters: int = 0) -> None:
        old = lines.get(name, Row(name, 1, (), 0, 0, memory.get(name, 0)))
        lines[name] = Row(name, 1, shape, old.parameters + parameters, old.flops + flops, old.kept)

    for name, event in run.steps:
        if event.op.name == "attention":
            put(_sibling(name, "weights"), weights_shape(event), weights_flops(event))
            put(name, event.outputs[0].shape, mixed_flops(event))
        else:
            put(name, event.outputs[0].shape, linear_flops(event), _newly_used(event, unused))
    if unused:
        put("unused", (), 0, sum(unused.values()))
    return list(lines.values())


def _newly_used(event: Event, unused: dict[int, int]) -> int:
    arrays = (a for a in event.arguments if isinstance(a, np.ndarray))
    return sum(unused.pop(id(buffer(array)), 0) for array in arrays)


def _merged(lines: list[Row]) -> list[Row]:
    """Rows whose names differ in numbers alone are one; rows that cost nothing are left out, but for whole parts."""
    groups: dict[tuple[str, tuple[int, ...]], list[Row]] = {}
    for line in lines:
        if line.parameters or line.flops or line.kept or "." not in line.name:
            pattern = re.sub(r"(?<=\.)\d+(?=\.|$)", "*", line.name)
            groups.setdefault((pattern, line.shape), []).append(line)
    return [
        Row(
            name=group[0].name if len(group) == 1 else pattern,
            repeats=len(group),
            shape=shape,
            parameters=sum(row.parameters for row in group),
            flops=sum(row.flops for row in group),
            kept=sum(row.kept for row in group),
        )
        for (pattern, shape), group in groups.items()
    ]


def _sibling(name: str, point: str) -> str:
    return f"{name.rpartition('.')[0]}.{point}" if "." in name else point
