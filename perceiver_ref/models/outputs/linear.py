"""Decoder outputs -> pixels, logits or audio samples by one linear map (Perceiver IO, section 4.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...autograd import ops
from ...autograd.tree import Tree
from ..layers import Linear
from ..module import Module, part
from ..tracing import point


@dataclass(frozen=True)
class IdentityOutput(Module):
    """The decoder's outputs as they are."""

    def apply(self, p: Tree, x: Any, *, params: Tree = None, sizes: dict[str, int] | None = None) -> Any:
        """x of any shape -> x."""
        return x


@dataclass(frozen=True)
class ProjectionOutput(Module):
    """A linear map of each output."""

    inputs: int
    outputs: int

    @part
    def linear(self) -> Linear:
        """The map."""
        return Linear(self.inputs, self.outputs)

    def apply(self, p: Tree, x: Any, *, params: Tree = None, sizes: dict[str, int] | None = None) -> Any:
        """x (B, O, inputs) -> (B, O, outputs)."""
        return point("", self._finish(point("linear", self.linear.apply(p["linear"], x))))

    def _finish(self, x: Any) -> Any:
        return x


@dataclass(frozen=True)
class ClassificationOutput(ProjectionOutput):
    """Class logits of the first output alone: (B, outputs)."""

    def _finish(self, x: Any) -> Any:
        return x[:, 0]


@dataclass(frozen=True)
class AudioOutput(ProjectionOutput):
    """Each output gives the samples of one patch, `outputs` of them: (B, O outputs)."""

    def _finish(self, x: Any) -> Any:
        return ops.reshape(x, shape=(x.shape[0], x.shape[1] * x.shape[2]))
