"""Elements that point to each other: AlphaStar's way to choose a target among units, on top of any body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..autograd import ops
from ..autograd.tree import Tree
from .layers import Linear
from .module import Module, explains_parameters, part
from .perceiver_io import PerceiverIO


@dataclass(frozen=True)
class Pointing(Module):
    """Units (B, U, units) -> logits (B, U, U): which unit each points to, by the product of two vectors of each.

        e = x W + b;  p, q = the halves of body(e);  logits = p q^T / sqrt(keys)

    The body maps (B, U, width) to (B, U, 2 keys).
    """

    units: int
    width: int
    keys: int
    body: PerceiverIO

    @part
    def embedding(self) -> Linear:
        """The map of a unit."""
        return Linear(self.units, self.width)

    @explains_parameters
    def apply(self, params: Tree, units: Any) -> Any:
        """units (B, U, units) -> (B, U, U)."""
        embedded = self.embedding.apply(params["embedding"], units)
        both = self.body.apply(params["body"], embedded)
        pointing, pointed = ops.split(both, sizes=(self.keys, self.keys), axis=-1)
        return ops.divide(ops.matmul(pointing, ops.transpose(pointed, axes=(0, 2, 1))), self.keys**0.5)
