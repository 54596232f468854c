"""Where a decoder's queries come from: positions, the inputs themselves, several modalities (Perceiver IO, 3.2).

A source makes all queries, those of chosen grid points, or one range of rows, so that large outputs can be decoded in
chunks without ever holding all queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..autograd import backend as backends
from ..autograd import ops
from ..autograd.backend import Array
from ..autograd.tree import Tree
from ..errors import InputError
from .constraints import Count
from .conventions import DEEPMIND, Conventions
from .inputs.base import Preprocessed
from .modalities import Modalities
from .module import Module
from .positions import (
    FourierPositions,
    Positions,
    ProjectedPositions,
    TrainablePositions,
    are_handled,
    linear_positions,
    subsampled_positions,
)
from .tracing import point, scope

Points = Array | Mapping[str, Array]
Rows = tuple[int, int]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Request:
    """What is asked of a decoder: by default the outputs of all its own queries, at once.

    queries (B, O, query_channels): in place of the decoder's own. query_mask (B, O): a query where it is False attends
    to nothing, see `Conventions.masked_rows`. points: flat indices of the only grid points to decode, by modality where
    there are several. chunk: decode so many queries at a time, with the same result and without holding all queries;
    progress(done, total) is called after each. `InputError` for query_mask together with chunk.
    """

    queries: Any = None
    query_mask: Array | None = None
    points: Points | None = None
    chunk: int | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.query_mask is not None and self.chunk is not None:
            raise InputError("query_mask and chunk cannot be combined")


EVERYTHING = Request()
"""All outputs of the decoder's own queries."""


@dataclass(frozen=True)
class PositionQueries(Module):
    """The encoding of each point of the output grid; with `concat_inputs` after that element's own features."""

    positions: Positions
    index_dims: tuple[int, ...]
    concat_inputs: bool = False
    conventions: Conventions = DEEPMIND
    input_channels: Count = 0

    @property
    def channels(self) -> int:
        """Width of a query: the encoding and `input_channels`, the features concatenated to it."""
        return self.positions.channels + self.input_channels

    def parameters(self) -> Tree:
        return self.positions.parameters()

    @property
    def size(self) -> int:
        """The number of queries."""
        return math.prod(self.index_dims)

    def apply(
        self, p: Tree, elements: Preprocessed, *, like: Array, points: Points | None = None, rows: Rows | None = None
    ) -> Any:
        """Queries (B, O, channels). points (n,): flat indices of the grid points to decode; rows: a range of them."""
        if isinstance(points, Mapping):
            raise InputError("points by modality were given to a decoder of one modality")
        encoded = self._encode(p, like, points, rows)
        batch = elements.inputs.shape[0]
        encoded = ops.broadcast_to(encoded, shape=(batch, *encoded.shape[-2:]))
        if not self.concat_inputs:
            return encoded
        features = elements.features if rows is None else elements.features[:, rows[0] : rows[1]]
        if features.shape[1] != encoded.shape[1]:
            raise InputError(f"{features.shape[1]} inputs cannot be joined to {encoded.shape[1]} queries one by one")
        return ops.concatenate([features, encoded], axis=-1)

    def _encode(self, p: Tree, like: Array, points: Array | None, rows: Rows | None) -> Any:
        if points is None and rows is None:
            return self.positions.apply(p, self.index_dims, like=like)
        encoding = self.positions.encoding if isinstance(self.positions, ProjectedPositions) else self.positions
        library = backends.xp(like)
        if isinstance(encoding, TrainablePositions):
            table = self.positions.apply(p, self.index_dims, like=like)
            table = table if points is None else ops.take(table, points)
            return table if rows is None else table[rows[0] : rows[1]]
        if points is None:
            grid = _grid.__wrapped__ if are_handled() else _grid
            pos = grid(self.index_dims, encoding, like.dtype)
        else:
            pos = subsampled_positions(points, self.index_dims, self.conventions.subsampling, like.dtype)
        pos = pos if rows is None else pos[rows[0] : rows[1]]
        return self.positions.apply(p, self.index_dims, like=like, pos=library.asarray(pos))


@dataclass(frozen=True)
class InputQueries(Module):
    """The preprocessed inputs themselves, positions included: one output for each input (optical flow, section 4.2)."""

    channels: int

    def apply(
        self, p: Tree, elements: Preprocessed, *, like: Array, points: Points | None = None, rows: Rows | None = None
    ) -> Any:
        """Queries (B, M, channels), or those of the inputs with the flat indices `points`, or a range of rows."""
        queries = elements.inputs if points is None else ops.take(elements.inputs, points, axis=1)
        return queries if rows is None else queries[:, rows[0] : rows[1]]


@dataclass(frozen=True)
class MultimodalQueries(Modalities):
    """Each modality's queries, padded to a common width by a trainable vector, one after the other by name."""

    modalities: Mapping[str, PositionQueries]
    min_padding: Count = 2

    def sizes(self, points: Points | None = None) -> dict[str, int]:
        """The number of queries by modality."""
        some = points if isinstance(points, Mapping) else {}
        return {name: self.modalities[name].size if some.get(name) is None else len(some[name]) for name in self.names}

    def apply(
        self, p: Tree, elements: Preprocessed, *, like: Array, points: Points | None = None, rows: Rows | None = None
    ) -> Any:
        """Queries (B, sum over modalities, channels). points: flat indices by modality, where not all are decoded."""
        if points is not None and not (isinstance(points, Mapping) and set(points) <= set(self.modalities)):
            raise InputError(f"points must be given by modality: {', '.join(self.names)}")
        parts, start = [], 0
        for name, size in self.sizes(points).items():
            part_rows = None
            if rows is not None:
                part_rows = (max(rows[0] - start, 0), min(rows[1] - start, size))
            start += size
            if part_rows is not None and part_rows[0] >= part_rows[1]:
                continue
            with scope(name):
                features = elements.features[name] if isinstance(elements.features, Mapping) else None
                queries = self.modalities[name].apply(
                    p["modalities"][name],
                    Preprocessed(elements.inputs, features),
                    like=like,
                    points=points.get(name) if isinstance(points, Mapping) else None,
                    rows=part_rows,
                )
                padded = self._padded(p, name, queries)
                point("own", queries)
                parts.append(point("", padded))
        return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=1)


Queries = PositionQueries | InputQueries | MultimodalQueries


@lru_cache(maxsize=4)
def _grid(index_dims: tuple[int, ...], encoding: FourierPositions, dtype: Any) -> Array:
    """The full grid's positions, (points, axes), read-only."""
    positions = linear_positions(index_dims, dtype, encoding.conventions.grid).reshape(-1, len(index_dims))
    positions.flags.writeable = False
    return positions
