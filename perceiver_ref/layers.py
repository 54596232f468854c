"""The parts of a layer that are not attention: linear map, layer norm, MLP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .autograd import ops
from .autograd.tree import Tree
from .conventions import DEEPMIND, Conventions
from .parameters import Initializer, Module, Parameter, fan_in_normal, fan_in_scaled, ones, zeros
from .tracing import point, scope


@dataclass(frozen=True)
class Linear(Module):
    """y = x W + b with W (inputs, outputs)."""

    inputs: int
    outputs: int
    bias: bool = True
    initializer: Initializer = fan_in_normal

    def parameters(self) -> Tree:
        weight = Parameter((self.inputs, self.outputs), self.initializer)
        return {"weight": weight, "bias": Parameter((self.outputs,), zeros)} if self.bias else {"weight": weight}

    def apply(self, p: Tree, x: Any) -> Any:
        """x (..., inputs) -> (..., outputs)."""
        return ops.linear(x, p["weight"], p.get("bias"))


@dataclass(frozen=True)
class LayerNorm(Module):
    """Normalise the last axis, then scale and shift (Ba et al. 2016)."""

    channels: int
    eps: float = 1e-5

    def parameters(self) -> Tree:
        return {"scale": Parameter((self.channels,), ones), "offset": Parameter((self.channels,), zeros)}

    def apply(self, p: Tree, x: Any) -> Any:
        """x (..., channels) -> the same shape."""
        return ops.layer_norm(x, p["scale"], p["offset"], eps=self.eps)


@dataclass(frozen=True)
class MLP(Module):
    """Two linear maps with an activation between them (Perceiver, section 3.2; Perceiver IO, appendix E).

    y = activation(x W1 + b1) W2 + b2          W1 (channels, widening * channels)
    """

    channels: int
    widening: int = 1
    conventions: Conventions = DEEPMIND

    def _parts(self) -> tuple[Linear, Linear]:
        wide = self.channels * self.widening
        return (
            Linear(self.channels, wide, initializer=fan_in_scaled),
            Linear(wide, self.channels, initializer=fan_in_scaled),
        )

    def parameters(self) -> Tree:
        hidden, output = self._parts()
        return {"hidden": hidden.parameters(), "output": output.parameters()}

    def apply(self, p: Tree, x: Any) -> Any:
        """x (..., channels) -> the same shape."""
        hidden, output = self._parts()
        activation = ops.activations[self.conventions.activation]
        with scope("mlp"):
            h = point("hidden", hidden.apply(p["hidden"], x))  # (..., widening * channels)
            h = point("activation", activation(h))
            return point("", output.apply(p["output"], h))
