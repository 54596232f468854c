"""Resamplers of one set of features, with linear maps before and after the layers: the family of Flamingo's.

B batch, S features, C their width, N latents, D their width, E that of outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ...autograd import ops
from ...autograd.backend import Array
from ...autograd.tree import Tree
from ...errors import InputError
from ..attention import Attention
from ..constraints import Count
from ..conventions import RESAMPLER_DIALECTS, Conventions
from ..flamingo.resampler import LatentsAttend, Norms, ResamplerLayer, width_of_heads
from ..layers import Linear, Norm, norm
from ..masks import check_mask
from ..module import Module, Parameter, explains_parameters, part, truncated_normal
from ..tracing import point, scope

_CONVENTIONS = RESAMPLER_DIALECTS["ip-adapter"]


@dataclass(frozen=True)
class LatentAttention(LatentsAttend):
    """The attention of a resampler's layer alone, with its norms and without a residual.

        y = attention(q = norm(x), kv = [norm(features), norm(x)])

    Without `latents_in_keys` the features may have a width of their own, `features` (default: `channels`).
    """

    channels: int
    features: int | None = None
    heads: int = 8
    head_channels: int | None = None
    latents_in_keys: bool = True
    latents_first: bool = False
    norms: Norms = "before"
    conventions: Conventions = _CONVENTIONS

    def __post_init__(self) -> None:
        width_of_heads(self.channels, self.heads, self.head_channels)
        if self.latents_in_keys and self.kv_inputs != self.channels:
            raise InputError(
                f"features of width {self.features} and latents of width {self.channels} cannot both be keys"
            )

    @property
    def kv_inputs(self) -> int:
        """The width of features."""
        return self.channels if self.features is None else self.features

    @part
    def attention(self) -> Attention:
        """The attention."""
        width = width_of_heads(self.channels, self.heads, self.head_channels)
        return Attention(self.channels, self.kv_inputs, width, width, self.channels, self.heads, self.conventions)

    def apply(self, p: Tree, x: Any, features: Any, *, mask: Array | None = None) -> Any:
        """x (B, N, D), features (B, S, C) -> (B, N, D). mask (B, S), bool: True where a feature is real."""
        normed = self.normed(p, "features_norm", features)
        return self.attended(p, self.normed(p, "latents_norm", x), normed, mask=mask)


@dataclass(frozen=True)
class Pooled(Module):
    """Latents made of the features: a linear map of their normed mean, cut into `latents` rows."""

    channels: int
    latents: int
    conventions: Conventions = _CONVENTIONS

    @part
    def norm(self) -> Norm:
        """The norm of the mean."""
        return norm(self.channels, self.conventions)

    @part
    def linear(self) -> Linear:
        """The map to all rows."""
        return Linear(self.channels, self.channels * self.latents)

    def apply(self, p: Tree, x: Any) -> Any:
        """x (B, S, D) -> (B, latents, D)."""
        with scope("pooled"):
            mean = point("norm", self.norm.apply(p["norm"], ops.mean(x, axis=-2)))
            rows = point("linear", self.linear.apply(p["linear"], mean))
            return point("", ops.reshape(rows, shape=(*rows.shape[:-1], self.latents, self.channels)))


@dataclass(frozen=True)
class Resampler(Module):
    """features (B, S, C) -> (B, N, E): latents attend to features in `layers` layers of their own weights.

        x = (features + positions) W + b; z = layers(latents, x); y = norm(z W' + b')

    `features`: their width, where a linear map leads from there to `channels`; None where they are as wide and are
    taken as they are. `outputs`: the width that a last linear map leads to, before the norm; None for none. `latents`:
    how many are learned; None where the call gives them. `pooled`: this many more, made of the mean of the mapped
    features (`Pooled`), come before the learned ones. `places`: learned positions for so many features, added before
    they are mapped. The other options are those of `ResamplerLayer`.
    """

    channels: int
    features: int | None = None
    outputs: int | None = None
    latents: int | None = 64
    pooled: Count = 0
    places: int | None = None
    layers: Count = 4
    heads: int = 8
    head_channels: int | None = None
    widening: int = 4
    hidden: int | None = None
    latents_in_keys: bool = True
    latents_first: bool = False
    norms: Norms = "before"
    conventions: Conventions = _CONVENTIONS

    def __post_init__(self) -> None:
        if self.latents is None and self.pooled:
            raise InputError("latents that the call gives cannot be joined by pooled ones")

    @part
    def input(self) -> Linear | None:
        """The map of features to the width of latents."""
        return None if self.features is None else Linear(self.features, self.channels)

    @part
    def pool(self) -> Pooled | None:
        """What makes latents of the features."""
        return Pooled(self.channels, self.pooled, self.conventions) if self.pooled else None

    @part
    def layer(self) -> ResamplerLayer:
        """Each of the layers."""
        return ResamplerLayer(
            self.channels,
            self.heads,
            self.head_channels,
            self.widening,
            self.latents_in_keys,
            hidden=self.hidden,
            conventions=self.conventions,
            latents_first=self.latents_first,
            norms=self.norms,
        )

    @part
    def output(self) -> Linear | None:
        """The map of the latents at the end."""
        return None if self.outputs is None else Linear(self.channels, self.outputs)

    @part
    def norm(self) -> Norm:
        """The norm at the end."""
        return norm(self.channels if self.outputs is None else self.outputs, self.conventions)

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arrays that the model is called with, in order."""
        return ("features",) if self.latents is not None else ("features", "latents")

    @property
    def width(self) -> int:
        """The width of the features that the model takes."""
        return self.channels if self.features is None else self.features

    def parameters(self) -> Tree:
        tables = {"latents": (self.latents, self.channels), "positions": (self.places, self.width)}
        around = {"input": self.input, "pool": self.pool, "output": self.output}
        return {
            **{name: Parameter((n, c), truncated_normal(0.02)) for name, (n, c) in tables.items() if n is not None},
            **{name: own.parameters() for name, own in around.items() if own is not None},
            "layers": [self.layer.parameters() for _ in range(self.layers)],
            "norm": self.norm.parameters(),
        }

    @explains_parameters
    def apply(
        self,
        p: Tree,
        features: Any,
        latents: Any = None,
        *,
        mask: Array | None = None,
        key_mask: Array | None = None,
    ) -> Any:
        """features (..., S, C) -> (B, N, E); B is all axes before S together.

        latents (B, N, D): in place of learned ones. mask (B, S), bool: True where a feature is real; key_mask (B,
        keys): the same of all keys, latents among them, in their order. Raises `InputError` for other shapes, and where
        there are more features than positions.
        """
        self._check(features)
        lead, s = math.prod(features.shape[:-2]), features.shape[-2]
        with scope("resampler"):
            x = features
            if self.places is not None:
                x = ops.add(x, point("positions", p["positions"][:s]))
            if self.input is not None:
                x = point("projected", self.input.apply(p["input"], x))
            x = point("features", ops.reshape(x, shape=(lead, s, self.channels)))
            z = point("latents", self._latents(p, x, latents))
            mask = None if mask is None else check_mask(mask, (lead, s), "mask")
            if key_mask is not None:
                keys = s + (z.shape[-2] if self.latents_in_keys else 0)
                key_mask = check_mask(key_mask, (lead, keys), "key_mask")
            for i, p_layer in enumerate(p["layers"]):
                with scope(f"layers.{i}"):
                    z = self.layer.apply(p_layer, z, x, mask=mask, key_mask=key_mask)
            return self.ended(p, z)

    def ended(self, p: Tree, z: Any) -> Any:
        """What follows the layers: latents (B, N, D) -> (B, N, E)."""
        if self.output is not None:
            z = point("output", self.output.apply(p["output"], z))
        return point("", self.norm.apply(p["norm"], z))

    def _latents(self, p: Tree, x: Any, given: Any) -> Any:
        """The latents to begin with, (B, N, D)."""
        b = x.shape[0]
        if self.latents is None:
            if given is None or len(given.shape) != 3 or given.shape[0] != b or given.shape[-1] != self.channels:
                came = "none" if given is None else tuple(given.shape)
                raise InputError(f"latents must be ({b}, latents, {self.channels}), got {came}")
            return given
        if given is not None:
            raise InputError("the model has latents of its own; they cannot be given")
        own = ops.broadcast_to(p["latents"], shape=(b, self.latents, self.channels))
        return own if self.pool is None else ops.concatenate([self.pool.apply(p["pool"], x), own], axis=-2)

    def _check(self, features: Any) -> None:
        shape = tuple(features.shape)
        if len(shape) < 3 or shape[-1] != self.width:
            raise InputError(f"features must be (batch, tokens, {self.width}), got {shape}")
        if self.places is not None and shape[-2] > self.places:
            raise InputError(f"there are {shape[-2]} features, and positions for {self.places}")
