"""Elements of a grid with the encoding of their position (Perceiver, section 3.2; Perceiver IO, section 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from ...autograd import ops
from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...errors import InputError
from ..call import Call
from ..constraints import Count
from ..layers import Linear
from ..module import Module, part
from ..positions import Positions
from ..tracing import point
from .base import Preprocessed
from .features import GridFeatures


@dataclass(frozen=True)
class GridInput(Module):
    """Each element: its features with the encoding of its position concatenated or added.

    `position_layers` residual linear maps refine the encoding first, with ReLU between them. Elements are laid out on
    one axis, or left on their grid without `flatten`.
    """

    features: GridFeatures
    positions: Positions
    combine: Literal["concat", "add"] = "concat"
    position_layers: Count = 0
    flatten: bool = True

    def __post_init__(self) -> None:
        if self.combine == "add" and self.features.channels != self.positions.channels:
            raise InputError(
                f"positions are added to features, so their channels must be equal: {self.positions.channels} and "
                f"{self.features.channels}"
            )

    @property
    def channels(self) -> int:
        """Width of an element."""
        return self.features.channels + (self.positions.channels if self.combine == "concat" else 0)

    @part
    def position_layer(self) -> Linear:
        """Each of the maps that refine the encoding."""
        return Linear(self.positions.channels, self.positions.channels)

    def parameters(self) -> Tree:
        layers = {str(i): self.position_layer.parameters() for i in range(self.position_layers)}
        return {
            "features": self.features.parameters(),
            "positions": self.positions.parameters(),
            "position_layers": layers,
        }

    def state(self) -> Tree:
        return {"features": self.features.state()}

    def apply(self, p: Tree, x: Any, call: Call | None = None, *, pos: Any = None) -> Preprocessed:
        """x as the features take it -> elements (B, M, channels), row-major over the grid, or (B, *grid, channels).

        pos (B, M, axes): positions in place of the grid's, one set for each batch element.
        """
        grid_features = self.features.apply(p["features"], x, (call or Call()).at("features"))
        batch, *grid, width = grid_features.shape
        features = point("features", ops.reshape(grid_features, shape=(batch, math.prod(grid), width)))
        expected = (batch, math.prod(grid))
        if pos is not None and tuple(pos.shape[:-1]) != expected:
            raise InputError(f"pos must be (batch, elements, axes) = (*{expected}, axes), got {tuple(pos.shape)}")
        encoded = self.positions.apply(p["positions"], tuple(grid), like=array_of(features), pos=pos)
        for i in range(self.position_layers):
            refined = point(f"position_layers.{i}", self.position_layer.apply(p["position_layers"][str(i)], encoded))
            encoded = ops.add(encoded, refined)
            encoded = ops.relu(encoded) if i < self.position_layers - 1 else encoded
        encoded = ops.broadcast_to(encoded, shape=(batch, math.prod(grid), self.positions.channels))
        if not self.flatten:
            features, encoded = (ops.reshape(a, shape=(batch, *grid, a.shape[-1])) for a in (features, encoded))
        if self.combine == "add":
            return Preprocessed(point("", ops.add(features, encoded)), features)
        return Preprocessed(point("", ops.concatenate([features, encoded], axis=-1)), features)
