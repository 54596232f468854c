"""perceiver-pytorch's encoders: the core's with other layers, or with the outputs of blocks kept and used again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ....autograd import ops
from ....autograd.backend import Array
from ....autograd.tree import Tree
from ....errors import InputError
from ....models.attention import CrossAttention, SelfAttention
from ....models.encoder import Encoder, own_weights, weights_of
from ....models.layers import LayerNorm, Linear
from ....models.module import part, variant
from ....models.tracing import point, scope
from .quirks import (
    AttentionResidual,
    GRUCrossAttention,
    GRUSelfAttention,
    LatentMixing,
    LinearAttention,
    VariedCrossAttention,
)


@dataclass(frozen=True)
class BlockEncoder(Encoder):
    """The encoder of `Perceiver` and `PerceiverIO`.

    `inverted` says of each cross-attention whether its softmax is over queries. With a `residual_rank`, every block
    but the first is given an `AttentionResidual` of all outputs so far, and the last such sum is the result. The
    outputs begin with what `first` names: the "latents", or the latents after the only "cross_attention".
    """

    inverted: tuple[bool, ...] = ()
    residual_rank: int | None = None
    first: Literal["latents", "cross_attention"] = "latents"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inverted and len(self.inverted) != self.cross_attends:
            many = f"{len(self.inverted)} values for {self.cross_attends} cross-attentions"
            raise InputError(f"inverted_cross_attn must be one value, or one for each cross-attention; got {many}")

    @part
    def cross_attention(self) -> CrossAttention:
        return variant(super().cross_attention, VariedCrossAttention)

    @part
    def inverted_cross_attention(self) -> CrossAttention | None:
        """The layer where the softmax is over queries."""
        return variant(super().cross_attention, VariedCrossAttention, inverted=True) if any(self.inverted) else None

    def cross_attention_of(self, block: int) -> CrossAttention:
        inverted = self.inverted_cross_attention if self.inverted and self.inverted[block] else None
        return inverted or self.cross_attention

    @part
    def residual(self) -> AttentionResidual | None:
        """The sum of all outputs so far."""
        return None if self.residual_rank is None else AttentionResidual(self.channels, self.residual_rank)

    def parameters(self) -> Tree:
        if self.residual is None:
            return super().parameters()
        own = self.residual.parameters()
        return {**super().parameters(), "attention_residuals": [own] * own_weights(self.blocks, self.shared_blocks)}

    def apply(self, p: Tree, inputs: Any, *, mask: Array | None = None, bias: Any = None, latents: Any = None) -> Any:
        """As `Encoder.apply`."""
        return self.encode(p, inputs, mask=mask, bias=bias, latents=latents)[0]

    def encode(
        self,
        p: Tree,
        inputs: Any,
        *,
        mask: Array | None = None,
        bias: Any = None,
        latents: Any = None,
        before: Sequence[Any] | None = None,
    ) -> tuple[Any, list[Any]]:
        """(latents (B, N, D), outputs of the blocks); `before`, where given, are the outputs that come first."""
        inputs, mask = self._checked(inputs, mask)
        with scope("encoder"):
            x = self._initial(p, inputs, latents)
            outputs = [x] if before is None else list(before)
            for b in range(self.blocks):
                if b < self.cross_attends:
                    x = self.cross_attended(p, b, x, inputs, mask, bias)
                    if before is None and self.first == "cross_attention":
                        outputs = [x]
                x = point(f"blocks.{b}", self.block(p, b, x))
                outputs.append(x)
                if self.residual is not None:
                    weights = p["attention_residuals"][weights_of(b, self.shared_blocks)]
                    with scope(f"attention_residuals.{b}"):
                        x = point("", self.residual.apply(weights, outputs))
            return point("", x), outputs


@dataclass(frozen=True)
class GatedEncoder(Encoder):
    """A GRU in place of every residual around attention."""

    @part
    def cross_attention(self) -> CrossAttention:
        return variant(super().cross_attention, GRUCrossAttention)

    @part
    def self_attention(self) -> SelfAttention:
        return variant(super().self_attention, GRUSelfAttention)


@dataclass(frozen=True)
class MixedLatentsEncoder(Encoder):
    """`LatentMixing` in place of self-attention."""

    @part
    def self_attention(self) -> Any:
        return LatentMixing(self.latents, self.channels, self.conventions)


@dataclass(frozen=True)
class TwoWayEncoder(Encoder):
    """Inputs go through a linear map first, and between two blocks they attend to each other and to the latents.

    Every block has the weights for that, the last, which does not need them, too.
    """

    @part
    def projection(self) -> Linear:
        """The map of inputs."""
        return Linear(self.inputs, self.inputs)

    @part
    def inputs_norm(self) -> LayerNorm:
        """The norm of inputs before they attend to each other."""
        return LayerNorm(self.inputs)

    @part
    def inputs_attention(self) -> LinearAttention:
        """The attention of inputs to each other."""
        return LinearAttention(self.inputs)

    @part
    def inputs_cross_attention(self) -> CrossAttention:
        """The layer in which inputs attend to latents."""
        return CrossAttention(
            self.inputs,
            self.channels,
            self.cross_heads,
            self.qk_channels,
            widening=self.cross_widening,
            conventions=self.conventions,
        )

    def parameters(self) -> Tree:
        own = {
            "norm": self.inputs_norm.parameters(),
            "attention": self.inputs_attention.parameters(),
            "cross_attention": self.inputs_cross_attention.parameters(),
        }
        inputs = [own] * own_weights(self.blocks, self.shared_blocks)
        return {**super().parameters(), "projection": self.projection.parameters(), "inputs": inputs}

    def apply(self, p: Tree, inputs: Any, *, mask: Array | None = None, bias: Any = None, latents: Any = None) -> Any:
        """As `Encoder.apply`; a mask only for a single block."""
        if mask is not None and self.blocks > 1:
            raise InputError(
                "experimental.Perceiver takes a mask only with depth 1: the peer's linear attention has none"
            )
        inputs, mask = self._checked(inputs, mask)
        with scope("encoder"):
            inputs = point("projection", self.projection.apply(p["projection"], inputs))
            x = self._initial(p, inputs, latents)
            for b in range(self.blocks):
                x = self.cross_attended(p, b, x, inputs, mask, bias)
                if b < self.blocks - 1:
                    with scope(f"inputs.{b}"):
                        inputs = self._changed(p["inputs"][weights_of(b, self.shared_blocks)], inputs, x)
                x = self.block(p, b, x)
            return point("", x)

    def _changed(self, p: Tree, inputs: Any, x: Any) -> Any:
        """The inputs (B, M, C) after attention among themselves, and to the latents x (B, N, D)."""
        normed = point("norm", self.inputs_norm.apply(p["norm"], inputs))
        inputs = ops.add(inputs, point("attention", self.inputs_attention.apply(p["attention"], normed)))
        with scope("cross_attention"):
            return self.inputs_cross_attention.apply(p["cross_attention"], inputs, x)
