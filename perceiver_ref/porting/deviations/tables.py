"""Deviations of learned tables: which rows of them positions and times take, and how embeddings are scaled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.core import Op
from ...autograd.tree import Tree
from ...models.flamingo.resampler import PerceiverResampler
from ...models.outputs.embedding import TiedEmbedding
from ...models.perceiver_ar import PerceiverAR
from .base import Candidate, Change, Survey, edits, exchanged

_POSITIONS = ("table", "positions", "query_positions")
_ROWS: dict[str, Callable[[Any], Any]] = {
    "at place i row i - 1": lambda table: xp(table).roll(table, 1, axis=0),
    "at place i row i + 1": lambda table: xp(table).roll(table, -1, axis=0),
    "at place i row i - 1, the first twice": lambda table: xp(table).concatenate([table[:1], table[:-1]]),
    "at place i row i + 1, the last twice": lambda table: xp(table).concatenate([table[1:], table[-1:]]),
    "at place i row i + 2": lambda table: xp(table).roll(table, -2, axis=0),
    "in reverse": lambda table: table[::-1],
    "left out": lambda table: xp(table).zeros_like(table),
    "the first row for all": lambda table: xp(table).broadcast_to(table[:1], table.shape),
    "added twice": lambda table: 2 * table,
}


def position_use(found: Survey) -> Iterator[Candidate]:
    """Other rows of a table of positions, or the rows of another table."""
    tables = {
        path: array for path, array in found.paths.items() if path.split("/")[-1] in _POSITIONS and array.ndim == 2
    }
    for path, array in tables.items():
        places = np.arange(1, len(array) + 1)[:, None]
        for name, change in _ROWS.items():
            if np.array_equal(change(places), places):
                continue  # a single row has no order
            yield Candidate("position-use", f"{path}: {name}", edits({path}, change))
    if tables:

        def backwards(original: Any, name: str, value: Any) -> Any:
            return original(name, value[..., ::-1, :] if name == "positions" and len(value.shape) > 1 else value)

        yield Candidate("position-use", "the positions that are used in reverse", exchanged({"point": backwards}))
    for path, array in tables.items():
        for other, taken in tables.items():
            if other != path and taken.shape[1] == array.shape[1] and len(taken) >= len(array):

                def replaced(table: Any, taken: Any = taken) -> Any:
                    return taken[: len(table)]

                yield Candidate("position-use", f"{other} in the place of {path}", edits({path}, replaced))


def time_embedding(found: Survey) -> Iterator[Candidate]:
    """Embeddings of frames added along another axis: to tokens, or to media."""
    if any(model.frames is not None for model in found.of_class(PerceiverResampler)):
        for name, axis in (("tokens", -2), ("media", -4)):

            def along(original: Any, model: Any, p: Tree, x: Any, axis: int = axis) -> Any:
                n = x.shape[axis]
                table = model._times(p["time_embedding"], n)
                return ops.add(x, ops.reshape(table, shape=(n, *(1,) * (-axis - 2), table.shape[-1])))

            variant = f"embeddings of frames added along {name}"
            yield Candidate("time-embedding", variant, exchanged({PerceiverResampler.timed: along}))


_FACTORS: dict[str, Callable[[int], float]] = {
    "times the square root of their width": math.sqrt,
    "divided by the square root of their width": lambda width: 1 / math.sqrt(width),
}


def embedding_scale(found: Survey) -> Iterator[Candidate]:
    """Embeddings of tokens, or logits by a tied embedding, multiplied by a power of the width."""
    meant = {path for path in found.used.get("take", ()) if path.split("/")[-1].endswith("embedding")}
    for name, factor in _FACTORS.items():
        if meant:

            def table(path: Callable[[Any], str], factor: Any = factor) -> Mapping[str, Any]:
                def take(op: Op, arguments: Any, static: Any) -> Any:
                    out = op(*arguments, **static)
                    return ops.multiply(out, factor(out.shape[-1])) if path(arguments[0]) in meant else out

                return {"take": take}

            yield Candidate("embedding-scale", f"embeddings of tokens {name}", Change(ops=table))
        if found.of_class(TiedEmbedding):

            def tied(original: Any, layer: Any, p: Tree, x: Any, factor: Any = factor, **options: Any) -> Any:
                return original(layer, p, ops.multiply(x, factor(x.shape[-1])), **options)

            yield Candidate("embedding-scale", f"tied logits {name}", exchanged({TiedEmbedding.apply: tied}))
        if any(model.tied for model in found.of_class(PerceiverAR)):

            def logits(original: Any, model: Any, p: Tree, z: Any, factor: Any = factor) -> Any:
                return original(model, p, ops.multiply(z, factor(z.shape[-1])))

            yield Candidate("embedding-scale", f"tied logits {name}", exchanged({PerceiverAR.logits: logits}))
