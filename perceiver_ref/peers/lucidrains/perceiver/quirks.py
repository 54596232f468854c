"""What only perceiver-pytorch does to attention, positions and heads, as variants of the core's parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from ....autograd import ops
from ....autograd.backend import Array, xp
from ....autograd.core import array_of
from ....autograd.handlers import Step
from ....autograd.ops.attention import scale_factor
from ....autograd.tree import Tree
from ....errors import InputError
from ....models.attention import Attention, CrossAttention, Layer, SelfAttention, join_heads, split_heads
from ....models.call import Call
from ....models.conventions import DIALECTS, Conventions
from ....models.decoder import Decoder, ProjectionDecoder
from ....models.inputs import Pixels
from ....models.layers import MLP, LayerNorm, Linear, Norm, norm
from ....models.module import Module, Parameter, ones, part, variant
from ....models.positions import FourierPositions
from ....models.tracing import asked_point, point, scope, trace
from ...gru import gru_cell

CONVENTIONS = DIALECTS["lucidrains"]
MULTIPLE = 4
"""Every MLP is this many times as wide as its layer."""
_SMALLEST_SUM = 1e-8


@dataclass(frozen=True)
class AxisMajorFourier(FourierPositions):
    """For one axis after the other [sin(pi f x), cos(pi f x), x]; elsewhere x, sines and cosines of all axes follow
    each other. Its highest frequency may be any number."""

    max_resolution: tuple[float, ...]  # type: ignore[assignment]

    def apply(self, p: Tree, index_dims: tuple[int, ...], *, like: Array, pos: Any = None) -> Any:
        """As `FourierPositions.apply`; `positions` is traced in the core's order."""
        return point("by_axis", axis_major(super().apply(p, index_dims, like=like, pos=pos), self.num_bands))


@Step
def axis_major(features: Any, num_bands: int) -> Any:
    """Fourier features (..., C) of d axes, C = d (2 num_bands + 1), in the order of `AxisMajorFourier`."""
    *lead, channels = features.shape
    axes = channels // (2 * num_bands + 1)
    position, sines, cosines = ops.split(features, sizes=(axes, axes * num_bands, axes * num_bands), axis=-1)
    parts = [ops.reshape(part, shape=(*lead, axes, num_bands)) for part in (sines, cosines)]
    by_axis = ops.concatenate([*parts, ops.reshape(position, shape=(*lead, axes, 1))], axis=-1)
    return ops.reshape(by_axis, shape=(*lead, channels))


@dataclass(frozen=True)
class GridVectors(Pixels):
    """The vectors of a grid of any number of axes as they are."""

    axes: int = 2

    def apply(self, p: Tree, x: Any, call: Call) -> Any:
        """x (B, *grid, channels) -> the same."""
        if len(x.shape) != self.axes + 2 or x.shape[-1] != self.image_channels or x.dtype.kind != "f":
            expected = f"(batch, {self.axes} axes, {self.image_channels} channels)"
            raise InputError(f"data must be floating point {expected}, got {x.dtype} of {tuple(x.shape)}")
        return x


@dataclass(frozen=True)
class VariedAttention(Attention):
    """Attention with two options.

    `inverted`: softmax over queries, then divided by the sum over keys (arXiv 2006.15055, algorithm 1; 0 for a query
    whose keys are all masked). `queries_join`: the queries are keys and values too, before the others.
    """

    inverted: bool = False
    queries_join: bool = False

    def apply(self, p: Tree, x: Any, z: Any, *, mask: Array | None = None, **options: Any) -> Any:
        """As `Attention.apply`; queries do not join themselves."""
        if self.queries_join and z is not x:
            z = ops.concatenate([x, z], axis=-2)
            if mask is not None:
                library = xp(mask)
                mask = library.concatenate([library.ones((*mask.shape[:-1], x.shape[-2]), bool), mask], axis=-1)
        return super().apply(p, x, z, mask=mask, **options)

    def _mixed(self, q: Any, k: Any, v: Any, mask: Array | None, bias: Any) -> Any:
        if not self.inverted:
            return super()._mixed(q, k, v, mask, bias)
        scores = ops.multiply(ops.matmul(q, ops.transpose(k, axes=(0, 1, 3, 2))), scale_factor(array_of(q), self.scale))
        weights = ops.softmax(scores, axis=-2)
        if mask is not None:
            weights = ops.where(mask, weights, xp(mask).zeros((), array_of(weights).dtype))
        total = ops.sum(weights, axis=-1, keepdims=True)
        weights = point("weights", ops.divide(weights, ops.maximum(total, _SMALLEST_SUM)))
        asked_point("weights.flat", lambda: ops.reshape(weights, shape=(-1, *weights.shape[-2:])))
        return ops.matmul(weights, v)


@dataclass(frozen=True)
class VariedCrossAttention(CrossAttention):
    """Cross-attention by `VariedAttention`."""

    inverted: bool = False
    queries_join: bool = False

    @part
    def attention(self) -> VariedAttention:
        """The attention."""
        return variant(super().attention, VariedAttention, inverted=self.inverted, queries_join=self.queries_join)


@dataclass(frozen=True)
class GRUCell(Module):
    """A gated recurrent unit of equally wide input and state."""

    channels: int

    @part
    def input(self) -> Linear:
        """The map of the input to gates and the next state."""
        return Linear(self.channels, 3 * self.channels)

    @part
    def carried(self) -> Linear:
        """That of the state, whose parameters are `state`."""
        return Linear(self.channels, 3 * self.channels)

    def parameters(self) -> Tree:
        return {"input": self.input.parameters(), "state": self.carried.parameters()}

    def apply(self, p: Tree, x: Any, state: Any) -> Any:
        """x (..., channels), state (..., channels) -> the next state."""
        return gru_cell(self.input.apply(p["input"], x), self.carried.apply(p["state"], state), state)


class _Gated(Layer):
    """A layer in which a GRU takes the place of adding attention to x: attention is its input, x its state."""

    gru: ClassVar[part[GRUCell]]

    def _joined(self, p: Tree, x: Any, attended: Any) -> Any:
        joined = self.gru.apply(p["gru"], attended, x)
        asked_point("attention_residual.flat", lambda: ops.reshape(joined, shape=(-1, joined.shape[-1])))
        return point("attention_residual", joined)


@dataclass(frozen=True)
class GRUCrossAttention(_Gated, CrossAttention):
    """Cross-attention gated by a GRU."""

    @part
    def gru(self) -> GRUCell:
        """The gate."""
        return GRUCell(self.q_inputs)


@dataclass(frozen=True)
class GRUSelfAttention(_Gated, SelfAttention):
    """Self-attention gated by a GRU."""

    @part
    def gru(self) -> GRUCell:
        """The gate."""
        return GRUCell(self.channels)


@dataclass(frozen=True)
class LatentMixing(Layer):
    """In place of self-attention an MLP along the axis of latents, the same for every channel, without a gate.

    x = x + mix(norm(x)^T)^T; x = x + mlp(norm(x))
    """

    latents: int
    channels: int
    conventions: Conventions = CONVENTIONS
    query_residual: bool = True

    @part
    def norm(self) -> Norm:
        """The norm before mixing."""
        return norm(self.channels, self.conventions)

    @part
    def mixer(self) -> MLP:
        """The MLP along the axis of latents."""
        return MLP(self.latents, MULTIPLE, replace(self.conventions, gated_mlp=False))

    @part
    def mlp_norm(self) -> Norm:
        """The norm before the MLP."""
        return norm(self.channels, self.conventions)

    @part
    def mlp(self) -> MLP:
        """The MLP of each latent."""
        return MLP(self.channels, MULTIPLE, self.conventions)

    def apply(self, p: Tree, x: Any) -> Any:
        """x (B, latents, channels) -> the same shape."""
        swapped = (0, 2, 1)
        normed = point("norm", self.norm.apply(p["norm"], x))
        with scope("mixing"):
            with trace({"mlp.hidden", "mlp.activation"}.__contains__, tensors=True) as inner:
                mixed = self.mixer.apply(p["mixer"], ops.transpose(normed, axes=swapped))
            for name, value in inner.items():  # by latents and channels, as the peer has them
                asked_point(name.removeprefix("mlp."), partial(ops.transpose, value, axes=swapped))
            mixed = point("", ops.transpose(mixed, axes=swapped))
        return self._finished(p, self._joined(p, x, mixed))


@dataclass(frozen=True)
class LinearAttention(Module):
    """Attention whose cost grows with the number of elements alone, by products of queries and keys over all elements.

        Q = softmax over channels of x Wq / sqrt(d), K = softmax over elements of x Wk; output = V (Q^T K) Wo

    (The products of arXiv 1812.01243, eq. 4, are Q (K^T V).)
    """

    channels: int
    heads: int = 4
    head_channels: int = 64

    @part
    def query(self) -> Linear:
        """The map to queries."""
        return Linear(self.channels, self.heads * self.head_channels, False)

    @part
    def key(self) -> Linear:
        """The map to keys."""
        return self.query

    @part
    def value(self) -> Linear:
        """The map to values."""
        return self.query

    @part
    def output(self) -> Linear:
        """The map of all heads together."""
        return Linear(self.heads * self.head_channels, self.channels)

    def apply(self, p: Tree, x: Any) -> Any:
        """x (B, M, channels) -> the same shape."""
        maps = {"query": self.query, "key": self.key, "value": self.value}
        projections = [made.apply(p[name], x) for name, made in maps.items()]
        asked_point("attention.projections", lambda: ops.concatenate(projections, axis=-1))
        q, k, v = (split_heads(projection, self.heads) for projection in projections)  # (B, H, M, d)
        q = ops.softmax(ops.multiply(q, scale_factor(array_of(q), None)), axis=-1)
        products = ops.matmul(ops.transpose(q, axes=(0, 1, 3, 2)), ops.softmax(k, axis=-2))  # (B, H, d, d)
        return self.output.apply(p["output"], join_heads(ops.matmul(v, products)))


@dataclass(frozen=True)
class AttentionResidual(Module):
    """What the next block is given: a weighted sum of all earlier blocks' outputs, with weights for every channel.

        weights = softmax over blocks of (rms_norm(x) W1 W2); sum over blocks of weights x

    (arXiv 2603.15031, with the attention pool of Enformer.) The norm adds the machine epsilon of x's dtype.
    """

    channels: int
    rank: int

    @part
    def down(self) -> Linear:
        """The first map, W1."""
        return Linear(self.channels, self.rank, False)

    @part
    def up(self) -> Linear:
        """The second map, W2."""
        return Linear(self.rank, self.channels, False)

    def parameters(self) -> Tree:
        return {"norm": {"scale": Parameter((self.channels,), ones)}, **super().parameters()}

    def apply(self, p: Tree, outputs: Sequence[Any]) -> Any:
        """outputs: arrays (B, N, channels), the oldest first -> (B, N, channels)."""
        x = ops.stack(list(outputs), axis=2)  # (B, N, blocks, channels)
        eps = float(np.finfo(np.promote_types(array_of(x).dtype, np.float32)).eps)  # of what PyTorch computes in
        normed = point("norm", ops.rms_norm(x, p["norm"]["scale"], eps=eps))
        logits = self.up.apply(p["up"], point("down", self.down.apply(p["down"], normed)))
        return ops.sum(ops.multiply(x, ops.softmax(point("logits", logits), axis=2)), axis=2)


@dataclass(frozen=True)
class NormedProjection(ProjectionDecoder):
    """The mean of the latents through a norm, then a linear map."""

    @part
    def norm(self) -> LayerNorm:
        """The norm of the mean."""
        return LayerNorm(self.latent_channels)

    def apply(self, p: Tree, latents: Any, *_: Any) -> Any:
        """latents (B, N, latent_channels) -> (B, outputs)."""
        with scope("decoder"):
            mean = point("mean", ops.mean(latents, axis=1))
            normed = point("norm", self.norm.apply(p["norm"], mean))
            return point("", self.output.apply(p["output"], normed))


@dataclass(frozen=True)
class OptionalMLPDecoder(Decoder):
    """A decoder whose cross-attention has an MLP after it only where `mlp` says so."""

    mlp: bool = False

    @part
    def cross_attention(self) -> CrossAttention:
        """The layer in which queries attend to latents."""
        return replace(super().cross_attention, feed_forward=self.mlp)
