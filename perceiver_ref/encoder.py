"""Perceiver IO's encoder: inputs of any size -> a fixed number of latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .attention import CrossAttention, SelfAttention
from .autograd import engine, ops
from .autograd.backend import Array, xp
from .autograd.ops.attention import MaskedRows
from .autograd.tree import Tree
from .conventions import DEEPMIND, Conventions
from .errors import InputError
from .parameters import Module, Parameter, truncated_normal
from .tracing import point, scope


@dataclass(frozen=True)
class Encoder(Module):
    """One cross-attention from latents to inputs, then the same block of self-attentions again and again
    (Perceiver IO, section 3.1; the repetition shares its weights, Perceiver, section 3.1).

    `layers` self-attentions make a block, which runs `blocks` times. Channel options are those of the layers.
    """

    inputs: int
    latents: int
    channels: int
    blocks: int = 1
    layers: int = 6
    cross_heads: int = 1
    self_heads: int = 8
    qk_channels: int | None = None
    v_channels: int | None = None
    attend_in: Literal["kv", "q"] = "kv"
    cross_widening: int = 1
    self_widening: int = 1
    query_residual: bool = True
    conventions: Conventions = DEEPMIND

    def __post_init__(self) -> None:
        for heads in (self.cross_heads, self.self_heads):
            if heads < 1 or self.channels % heads:
                raise InputError(f"channels ({self.channels}) must be divisible by the number of heads ({heads})")

    def _parts(self) -> tuple[CrossAttention, list[SelfAttention]]:
        cross = CrossAttention(
            q_inputs=self.channels,
            kv_inputs=self.inputs,
            heads=self.cross_heads,
            qk_channels=self.qk_channels,
            v_channels=self.v_channels,
            attend_in=self.attend_in,
            widening=self.cross_widening,
            query_residual=self.query_residual,
            conventions=self.conventions,
        )
        block = [
            SelfAttention(
                self.channels,
                self.self_heads,
                self.qk_channels,
                self.v_channels,
                self.self_widening,
                self.conventions,
            )
            for _ in range(self.layers)
        ]
        return cross, block

    def parameters(self) -> Tree:
        cross, block = self._parts()
        return {
            "latents": Parameter((self.latents, self.channels), truncated_normal(0.02)),
            "cross_attention": cross.parameters(),
            "block": [layer.parameters() for layer in block],
        }

    def apply(self, p: Tree, inputs: Any, *, mask: Array | None = None, bias: Any = None, latents: Any = None) -> Any:
        """inputs (B, M, C) -> latents (B, N, D).

        mask (B, M): True where an input is real. bias: added to the cross-attention's logits, broadcastable to
        (B, heads, N, M). latents (B, N, D): used in place of the trained initial ones.
        """
        if len(inputs.shape) != 3 or inputs.shape[-1] != self.inputs:
            raise InputError(f"inputs must be (batch, positions, {self.inputs}), got {tuple(inputs.shape)}")
        if mask is not None:
            mask = check_mask(mask, tuple(inputs.shape[:2]), "mask")
            inputs = _finite_where_unused(inputs, mask, self.conventions.masked_rows)
            mask = mask[:, None, :]  # (B, 1, M)
        cross, block = self._parts()
        with scope("encoder"):
            if latents is None:
                latents = ops.broadcast_to(p["latents"], shape=(inputs.shape[0], self.latents, self.channels))
            x = point("latents", latents)
            with scope("cross_attention"):
                x = cross.apply(p["cross_attention"], x, inputs, mask=mask, bias=bias)
            for b in range(self.blocks):
                for i, (layer, p_layer) in enumerate(zip(block, p["block"])):  # the same p_layer in every block
                    with scope(f"blocks.{b}.{i}"):
                        x = layer.apply(p_layer, x)
            return point("", x)


def _finite_where_unused(inputs: Any, mask: Array, masked_rows: MaskedRows) -> Any:
    """The inputs, zero where they are NaN or infinite in a slot that nothing attends to.

    Attention leaves such slots out, but gradients of the layers before it are products with them, and 0 * NaN is NaN.
    """
    data = engine.data(inputs)
    library = xp(data)
    used = mask | ~mask.any(-1, keepdims=True) if masked_rows == "uniform" else mask
    return ops.where(used[..., None] | library.isfinite(data), inputs, library.zeros((), data.dtype))


def check_mask(mask: Array, shape: tuple[int, ...], name: str) -> Array:
    """A bool mask of exactly this shape, or an `InputError` that says what came."""
    if tuple(mask.shape) != shape or mask.dtype != bool:
        came = f"{mask.dtype} of {tuple(mask.shape)}"
        raise InputError(f"{name} must be bool of shape {shape}, True = attend; got {came}")
    return mask
