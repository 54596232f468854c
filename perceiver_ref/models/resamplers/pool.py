"""Attention pooling: learned queries attend to features once, and nothing is added to what they get.

Set Transformer's pooling by attention (Lee et al. 2019, arXiv 1810.00825, section 3.2) in the forms that vision
encoders and their projectors have it. B batch, S features, C their width, N latents, D and E channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ...autograd import ops
from ...autograd.backend import Array
from ...autograd.tree import Tree
from ...errors import InputError
from ..attention import Attention
from ..conventions import POOLER_DIALECTS, Conventions
from ..flamingo.resampler import LatentsAttend, Norms, width_of_heads
from ..layers import MLP, Linear, Norm, norm
from ..module import Parameter, explains_parameters, part, truncated_normal
from ..tracing import asked_point, point, scope

Projection = Literal["none", "linear", "affine"]
End = Literal["none", "norm"]
Take = Literal["all", "first", "mean"]


@dataclass(frozen=True)
class AttentionPool(LatentsAttend):
    """features (B, S, C) -> (B, N, E), or (B, E) where one row is taken.

        x = features W + b; q = norm(latents); y = attention(q, kv = norm(x)); y = y + mlp(norm(y)); y = norm(y) W'

    Every step but the attention is an option. `projection`: the features are mapped to `channels` first, "linear" or,
    with a bias, "affine". `places`: learned positions of exactly so many features, added to them. `norms`: "before" the
    attention, of latents and features, or "none". `latents_in_keys`, `latents_first` and `qk_norm` as in a resampler's
    layer. `latent_channels`: the width of the latents (default: `channels`), `outputs` that of what attention gives.
    `hidden`: of an MLP with a residual, None for none; `mlp_norms`: its norm. `end`: a norm of the result; `last`: the
    width that a last linear map without bias leads to. `take`: all rows, the first one, or their mean.
    """

    features: int
    channels: int
    latents: int = 1
    heads: int = 8
    latent_channels: int | None = None
    outputs: int | None = None
    projection: Projection = "none"
    places: int | None = None
    norms: Norms = "none"
    latents_in_keys: bool = False
    latents_first: bool = False
    qk_norm: bool = False
    hidden: int | None = None
    mlp_norms: Norms = "before"
    end: End = "none"
    last: int | None = None
    take: Take = "all"
    conventions: Conventions = POOLER_DIALECTS["timm"]
    arguments: ClassVar[tuple[str, ...]] = ("features",)

    def __post_init__(self) -> None:
        width_of_heads(self.channels, self.heads, None)
        if self.latents_in_keys and self.kv_inputs != self.rows[1]:
            raise InputError(
                f"features of width {self.kv_inputs} and latents of width {self.rows[1]} cannot both be keys"
            )

    @property
    def kv_inputs(self) -> int:
        """The width of what is attended to."""
        return self.features if self.projection == "none" else self.channels

    @property
    def width(self) -> int:
        """The width of the features that the model takes."""
        return self.features

    @property
    def rows(self) -> tuple[int, int]:
        """The shape of the latents."""
        return self.latents, self.channels if self.latent_channels is None else self.latent_channels

    @property
    def pooled(self) -> int:
        """The width of what attention gives."""
        return self.channels if self.outputs is None else self.outputs

    @part
    def input(self) -> Linear | None:
        """The map of features to `channels`."""
        if self.projection == "none":
            return None
        return Linear(self.features, self.channels, bias=self.projection == "affine")

    @part
    def latents_norm(self) -> Norm | None:
        """The norm of latents before attention."""
        return norm(self.rows[1], self.conventions) if self.norms == "before" else None

    @part
    def attention(self) -> Attention:
        """The attention."""
        d = self.channels
        return Attention(
            self.rows[1], self.kv_inputs, d, d, self.pooled, self.heads, self.conventions, qk_norm=self.qk_norm
        )

    @part
    def mlp_norm(self) -> Norm | None:
        """The norm before the MLP."""
        return norm(self.pooled, self.conventions) if self.hidden is not None and self.mlp_norms == "before" else None

    @part
    def mlp(self) -> MLP | None:
        """The MLP."""
        return None if self.hidden is None else MLP(self.pooled, conventions=self.conventions, hidden=self.hidden)

    @part
    def norm(self) -> Norm | None:
        """The norm of the result."""
        return norm(self.pooled, self.conventions) if self.end == "norm" else None

    @part
    def output(self) -> Linear | None:
        """The last map."""
        return None if self.last is None else Linear(self.pooled, self.last, bias=False)

    def parameters(self) -> Tree:
        drawn = truncated_normal(0.02)
        places = {} if self.places is None else {"positions": Parameter((self.places, self.features), drawn)}
        return {"latents": Parameter(self.rows, drawn), **places, **super().parameters()}

    @explains_parameters
    def apply(
        self,
        p: Tree,
        features: Any,
        *,
        mask: Array | None = None,
        head_mask: Array | None = None,
        bias: Any = None,
        query_positions: Any = None,
        key_positions: Any = None,
    ) -> Any:
        """features (B, S, C) -> (B, N, E), or (B, E).

        mask (B, S), bool: True where a feature is real; head_mask, broadcastable to (B, H, N, keys), in its place.
        bias: added to the scores, broadcastable to (B, H, N, keys). query_positions (N, D): added to the normed
        latents; key_positions (S, D) or (B, S, D): to what keys are made of, values not. Raises `InputError` for other
        shapes.
        """
        x = self.entered(p, features)
        keys = None if key_positions is None else ops.add(x, key_positions)
        options = {"mask": mask, "head_mask": head_mask, "bias": bias}
        return self.answered(p, x, keys=keys, query_positions=query_positions, **options)

    def entered(self, p: Tree, features: Any) -> Any:
        """The first half: features (B, S, C) with positions, mapped and normed -> (B, S, D)."""
        shape = tuple(features.shape)
        if len(shape) != 3 or shape[-1] != self.features:
            raise InputError(f"features must be (batch, tokens, {self.features}), got {shape}")
        with scope("pool"):
            x = features
            if self.places is not None:
                if shape[1] != self.places:
                    raise InputError(f"there are {shape[1]} features, and positions for exactly {self.places}")
                x = ops.add(x, p["positions"])
            if self.input is not None:
                x = point("projected", self.input.apply(p["input"], x))
            return self.normed(p, "features_norm", x)

    def answered(self, p: Tree, x: Any, *, keys: Any = None, query_positions: Any = None, **options: Any) -> Any:
        """The second half: what `entered` gives, (B, S, D) -> (B, N, E), or (B, E).

        keys (B, S, D): what keys are made of, where that is not x. `options`: masks and bias as in `apply`.
        """
        with scope("pool"):
            q = self.normed(p, "latents_norm", p["latents"])  # (N, D): the same for the whole batch
            if query_positions is not None:
                q = ops.add(q, query_positions)
            q = ops.broadcast_to(q, shape=(x.shape[0], *q.shape))
            asked_point("latents_norm.batch", lambda: q)
            if keys is not None:
                options["values"], x = x, keys
            y = self.attended(p, q, x, **options)
            asked_point("attention.queries_first", lambda: ops.transpose(y, axes=(1, 0, 2)))
            return point("", self._taken(self._ended(p, y)))

    def _ended(self, p: Tree, y: Any) -> Any:
        """What follows the attention."""
        if self.hidden is not None:
            y = self._finished(p, y)
        y = self.normed(p, "norm", y)
        return y if self.output is None else point("output", self.output.apply(p["output"], y))

    def _taken(self, y: Any) -> Any:
        if self.take == "all":
            return y
        return y[:, 0] if self.take == "first" else ops.mean(y, axis=1)
