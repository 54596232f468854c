"""The parts of the auto-encoders that are no attention: embedding of points, and bottlenecks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.core import array_of
from ...autograd.handlers import Step
from ...autograd.tree import Tree
from ...errors import InputError
from ...models.call import Call
from ...models.layers import Linear
from ...models.module import Module, Parameter, ones, part, zeros
from ...models.tracing import point, scope

AXES = 3
_LEAST, _MOST = -30.0, 20.0
"""What the logarithm of a variance is cut to."""


@Step
def point_features(x: Any, basis: Any) -> Any:
    """Points (B, N, 3) and a basis (3, K) -> [sines, cosines, points], (B, N, 2 K + 3)."""
    angles = ops.matmul(x, basis)
    return ops.concatenate([ops.sin(angles), ops.cos(angles), x], axis=-1)


@dataclass(frozen=True)
class PointEmbedding(Module):
    """Points -> W [sin(p basis), cos(p basis), p] + b.

    The basis is a buffer: for one axis after the other pi 2^0, pi 2^1, ..., in float32.
    """

    frequencies: int
    channels: int

    @part
    def mlp(self) -> Linear:
        """The map of all features."""
        return Linear(2 * AXES * self.frequencies + AXES, self.channels)

    def state(self) -> Tree:
        return {"basis": Parameter((AXES, AXES * self.frequencies), lambda rng, shape: self._basis())}

    @property
    def arguments(self) -> Mapping[str, tuple[int | None, ...]]:
        """The shape of one example of each argument; None where the model does not say."""
        return {"input": (None, AXES)}

    def apply(self, p: Tree, x: Any, *, call: Call | None = None) -> Any:
        """x (B, N, 3) -> (B, N, channels)."""
        return self.embed(p, x, call.state if call is not None else None)

    def embed(self, p: Tree, x: Any, state: Tree) -> Any:
        """The same with these buffers; None: those that the class makes."""
        if len(x.shape) != 3 or x.shape[-1] != AXES:
            raise InputError(f"points must be (batch, points, {AXES}), got {tuple(x.shape)}")
        like = array_of(x)
        basis = state["basis"] if state else xp(like).asarray(self._basis(), like.dtype)
        return point("points", self.mlp.apply(p["mlp"], point_features(x, basis)))

    def _basis(self) -> np.ndarray:
        rising = (2.0 ** np.arange(self.frequencies)).astype(np.float32) * np.float32(math.pi)
        return np.kron(np.eye(AXES, dtype=np.float32), rising)


@dataclass(frozen=True)
class Bottleneck(Module):
    """What lies between encoder and decoder: nothing."""

    def encode(self, p: Tree, x: Any, noise: Any) -> tuple[Any, Any]:
        """Latents (B, N, D) -> what is kept of them, (B, N, L), and its divergence (B,) from the prior, or None."""
        return x, None

    def decode(self, p: Tree, z: Any) -> Any:
        """(B, N, L) -> latents (B, N, D)."""
        return z


@dataclass(frozen=True)
class Gaussian(Bottleneck):
    """A normal distribution of each latent, drawn from with given noise (Kingma and Welling 2013, arXiv 1312.6114).

    The divergence from a standard one is half the mean of mean^2 + variance - 1 - log variance, not its sum.
    """

    channels: int
    kept: int
    weight: float = 1.0
    """Of the divergence"""

    @part
    def mean(self) -> Linear:
        """The map to means."""
        return Linear(self.channels, self.kept)

    @part
    def log_variance(self) -> Linear:
        """The map to logarithms of variances."""
        return Linear(self.channels, self.kept)

    @part
    def output(self) -> Linear:
        """The map back."""
        return Linear(self.kept, self.channels)

    def encode(self, p: Tree, x: Any, noise: Any) -> tuple[Any, Any]:
        with scope("bottleneck"):
            mean = point("mean", self.mean.apply(p["mean"], x))
            v = _cut(point("log_variance", self.log_variance.apply(p["log_variance"], x)))
            if tuple(noise.shape) != tuple(mean.shape):
                raise InputError(f"noise must be {tuple(mean.shape)}, got {tuple(noise.shape)}")
            z = point("sample", ops.add(mean, ops.multiply(ops.exp(ops.multiply(v, 0.5)), noise)))
            apart = ops.subtract(ops.add(ops.multiply(mean, mean), ops.exp(v)), ops.add(v, 1.0))
            return z, ops.multiply(ops.mean(apart, axis=(1, 2)), 0.5 * self.weight)

    def decode(self, p: Tree, z: Any) -> Any:
        with scope("bottleneck"):
            return point("output", self.output.apply(p["output"], z))


def _cut(v: Any) -> Any:
    """v within its bounds, and beyond them a constant."""
    data = array_of(v)
    library = xp(data)
    edge = library.minimum(library.maximum(data, _LEAST), _MOST)
    return ops.where((data >= _LEAST) & (data <= _MOST), v, edge)


@dataclass(frozen=True)
class Normalized(Bottleneck):
    """Latents mapped to few channels and normed; scaled and shifted on the way back (arXiv 2410.01295)."""

    channels: int
    kept: int

    @part
    def input(self) -> Linear:
        """The map to few channels."""
        return Linear(self.channels, self.kept)

    @part
    def output(self) -> Linear:
        """The map back."""
        return Linear(self.kept, self.channels)

    def parameters(self) -> Tree:
        own = {"scale": Parameter((self.kept,), ones), "offset": Parameter((self.kept,), zeros)}
        return {**own, **super().parameters()}

    def encode(self, p: Tree, x: Any, noise: Any) -> tuple[Any, Any]:
        with scope("bottleneck"):
            z = point("input", self.input.apply(p["input"], x))
            one, none = (xp(array_of(z)).full(self.kept, value, z.dtype) for value in (1, 0))
            return point("norm", ops.layer_norm(z, one, none, eps=1e-6)), None

    def decode(self, p: Tree, z: Any) -> Any:
        with scope("bottleneck"):
            return point("output", self.output.apply(p["output"], ops.add(ops.multiply(z, p["scale"]), p["offset"])))
