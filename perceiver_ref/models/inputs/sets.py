"""Elements without a grid: one-hot labels, points in space, and vectors such as a game's entities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...autograd import ops
from ...autograd.tree import Tree
from ...errors import InputError
from ..call import Call
from ..module import Module
from ..positions import FourierPositions
from ..tracing import point
from .base import Preprocessed


@dataclass(frozen=True)
class OneHotInput(Module):
    """A vector over classes is one element (the label of Perceiver IO's multimodal autoencoder)."""

    channels: int

    def apply(self, p: Tree, x: Any, call: Call | None = None, *, pos: Any = None) -> Preprocessed:
        """x (B, channels) -> elements (B, 1, channels)."""
        if len(x.shape) != 2 or x.shape[-1] != self.channels:
            raise InputError(f"one-hot vectors must be (batch, {self.channels}), got {tuple(x.shape)}")
        element = point("", ops.reshape(x, shape=(x.shape[0], 1, self.channels)))
        return Preprocessed(element, element)


@dataclass(frozen=True)
class PointInput(Module):
    """Points: the Fourier features of their coordinates (Perceiver, section 4.3)."""

    positions: FourierPositions

    @property
    def channels(self) -> int:
        """The width of an element."""
        return self.positions.channels

    def parameters(self) -> Tree:
        return {}

    def apply(self, p: Tree, x: Any, call: Call | None = None, *, pos: Any = None) -> Preprocessed:
        """x (B, M, axes) coordinates in [-1, 1] -> elements (B, M, channels)."""
        axes = len(self.positions.max_resolution)
        if len(x.shape) != 3 or x.shape[-1] != axes or x.dtype.kind != "f":
            came = f"{x.dtype} of {tuple(x.shape)}"
            raise InputError(f"points must be floating point (batch, points, {axes}), got {came}")
        return Preprocessed(point("", self.positions.apply({}, (), like=x, pos=x)), x)


@dataclass(frozen=True)
class VectorInput(Module):
    """A set of vectors as it is: entities, or features made elsewhere (Perceiver IO, its units of StarCraft II)."""

    channels: int

    def apply(self, p: Tree, x: Any, call: Call | None = None, *, pos: Any = None) -> Preprocessed:
        """x (B, M, channels) -> the same."""
        if len(x.shape) != 3 or x.shape[-1] != self.channels:
            raise InputError(f"vectors must be (batch, elements, {self.channels}), got {tuple(x.shape)}")
        return Preprocessed(point("", x), x)
