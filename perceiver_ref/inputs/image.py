"""Images -> one element per pixel (Perceiver, section 4.1; Perceiver IO, section 4.5)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..autograd import engine, ops
from ..autograd.tree import Tree
from ..errors import InputError
from ..parameters import Module
from ..position import Positions
from ..tracing import point, scope


@dataclass(frozen=True)
class PixelInput(Module):
    """Each pixel is an element: its channels, then the encoding of its position."""

    image_channels: int
    positions: Positions

    @property
    def channels(self) -> int:
        """Width of an element."""
        return self.image_channels + self.positions.channels

    def parameters(self) -> Tree:
        return {"positions": self.positions.parameters()}

    def apply(self, p: Tree, images: Any) -> tuple[Any, Any]:
        """images (B, H, W, image_channels), floating point -> (B, H W, channels), and the same without positions.

        Any number of grid axes between batch and channels that the positions have, rows first.
        """
        data = engine.data(images)
        if data.ndim < 3 or data.shape[-1] != self.image_channels or data.dtype.kind != "f":
            raise InputError(
                f"images must be floating point of shape (batch, height, width, {self.image_channels}), channels last; "
                f"got {data.dtype} of {data.shape}"
            )
        batch, *grid, channels = images.shape
        with scope("input"):
            pixels = ops.reshape(images, shape=(batch, math.prod(grid), channels))
            table = self.positions.apply(p["positions"], tuple(grid), like=data)
            encoded = point("positions", ops.broadcast_to(table, shape=(batch, *table.shape)))
            return point("", ops.concatenate([pixels, encoded], axis=-1)), pixels
