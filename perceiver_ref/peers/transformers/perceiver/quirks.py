"""What transformers' Perceiver does and nobody else: each a few lines, so that its outputs can be reproduced."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from ....autograd import backend as backends
from ....autograd import ops
from ....autograd.backend import Array
from ....autograd.tree import Tree
from ....models.call import Call
from ....models.decoder import Decoder
from ....models.inputs import Pixels, Preprocessed
from ....models.inputs.features import check_grid
from ....models.module import Module
from ....models.positions import (
    FourierPositions,
    Positions,
    ProjectedPositions,
    TrainablePositions,
    fourier_features,
    linear_positions,
)
from ....models.queries import InputQueries, Points, PositionQueries, Rows
from ....models.tracing import point

STEM_PADDING: dict[str, Any] = {"convolution_padding": ((3, 3), (3, 3)), "pool_padding": ((0, 0), (0, 0))}
"""The convolutional stem pads both sides alike and its pooling not at all: 224 pixels become 55, not 56."""


def first_item_features(
    pos: Any, num_bands: int, max_resolution: tuple[int, ...], *, concat_pos: bool, sine_only: bool
) -> Any:
    """Fourier features whose sines and cosines are those of the first batch item, for every item.

    pos (B, N, d) -> (B, N, C) if `concat_pos`, else without batch, (N, C). Where only one of `pos` and
    `max_resolution` has a single axis, that one is broadcast to the other's axes.
    """
    batch, n, given = pos.shape
    axes = max(given, len(max_resolution))
    resolution = max_resolution * axes if len(max_resolution) == 1 else max_resolution
    first = ops.broadcast_to(ops.getitem(pos, index=0), shape=(n, axes))
    features = fourier_features(first, num_bands, resolution, concat_pos=False, sine_only=sine_only)
    if not concat_pos:
        return features
    return ops.concatenate([pos, ops.broadcast_to(features, shape=(batch, *features.shape))], axis=-1)


@dataclass(frozen=True)
class FirstItemFourier(FourierPositions):
    """`first_item_features` for given positions, and for a grid with another number of axes than `max_resolution`."""

    def apply(self, p: Tree, index_dims: tuple[int, ...], *, like: Array, pos: Any = None) -> Any:
        """As `FourierPositions.apply`; pos may be (N, axes) or (B, N, axes)."""
        axes = len(self.max_resolution)
        if (len(index_dims) == axes and pos is None) or (pos is not None and pos.ndim == 2):
            return super().apply(p, index_dims, like=like, pos=pos)
        single = pos is None
        if single:
            grid = linear_positions(index_dims, like.dtype, self.conventions.grid)
            pos = backends.xp(like).asarray(grid.reshape(1, -1, len(index_dims)))
        options = {"concat_pos": self.concat_pos, "sine_only": self.sine_only}
        features = first_item_features(pos, self.num_bands, self.max_resolution, **options)
        return point("positions", features[0] if single and self.concat_pos else features)


@dataclass(frozen=True)
class SlicedPixels(Pixels):
    """Images (not video) are downsampled along the batch and channel axes instead of height and width."""

    temporal: bool = False

    @property
    def channels(self) -> int:
        """The width of an element."""
        return self.image_channels if self.temporal else math.ceil(self.image_channels / self.space)

    def apply(self, p: Tree, x: Any, call: Call) -> Any:
        """Images (B, H, W, C) -> (ceil(B / space), H, W, ceil(C / space)); video as `Pixels`."""
        if len(x.shape) != 4:
            return super().apply(p, x, call)
        check_grid(x, self.image_channels)
        step = slice(None, None, self.space)
        return ops.getitem(x, index=(step, slice(None), slice(None), step))


@dataclass(frozen=True)
class FlattenedGridQueries(PositionQueries):
    """Two departures from `PositionQueries`, and decoder weights that are there but unused.

    All queries of a Fourier encoding are those of a line with as many points as the flattened inputs have channels,
    since the peer reads the grid off the wrong axes. Trainable queries are all used, whatever points are asked for.
    `declared` is the width that the peer believes the queries have, where a modality's decoder is not
    `position_encoding_only`; `unused` is the rest of that decoder.
    """

    declared: int | None = None
    unused: Module | None = None

    @property
    def channels(self) -> int:
        return super().channels if self.declared is None else self.declared

    def parameters(self) -> Tree:
        return {**super().parameters(), **({"unused": self.unused.parameters()} if self.unused else {})}

    def apply(
        self, p: Tree, elements: Preprocessed, *, like: Array, points: Points | None = None, rows: Rows | None = None
    ) -> Any:
        """As `PositionQueries.apply`."""
        encoding = self.positions.encoding if isinstance(self.positions, ProjectedPositions) else self.positions
        made = PositionQueries(self.positions, self.index_dims, self.concat_inputs, conventions=self.conventions)
        if isinstance(encoding, TrainablePositions):
            points = None
        elif points is None:
            made = replace(made, index_dims=(elements.inputs.shape[-1],))
        return made.apply(p, elements, like=like, points=points, rows=rows)


@dataclass(frozen=True)
class FlowQueries(InputQueries):
    """`InputQueries` beside a position encoding that is built and never used."""

    positions: Positions | None = None

    def parameters(self) -> Tree:
        return self.positions.parameters() if self.positions else {}


@dataclass(frozen=True)
class InputSizedDecoder(Decoder):
    """Unless points are chosen, outputs are cut into modalities by the numbers of inputs, not of queries."""

    def sizes(self, points: Points | None = None) -> dict[str, int] | None:
        return None if points is None else super().sizes(points)
