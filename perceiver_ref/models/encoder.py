"""The encoder of Perceiver and Perceiver IO: inputs of any size -> a fixed number of latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ..autograd import checkpoint, ops
from ..autograd.backend import Array
from ..autograd.tree import Tree
from ..errors import InputError
from .attention import CrossAttention, SelfAttention
from .constraints import Count
from .conventions import DEEPMIND, Conventions
from .masks import check_mask, finite_where_unused
from .module import Module, Parameter, part, truncated_normal
from .tracing import point, scope

Sharing = Literal["all", "later", "none"]
_MOST_LAYERS = 5_000  # a mistyped configuration is an error at once, not memory filling up


@dataclass(frozen=True)
class Encoder(Module):
    """A cross-attention from latents to inputs and a block of self-attentions, again and again.

    Perceiver IO (section 3.1) attends to the inputs once and then repeats one block. Perceiver (section 3.1) repeats
    both: the first `cross_attends` of the `blocks` blocks have a cross-attention before them.

    `shared_cross` and `shared_blocks` say whose weights are one: of "all" repetitions, of the "later" ones (all but the
    first; Perceiver shares its cross-attentions so), or of "none". `self_qk_channels` and `self_v_channels` are the
    widths of self-attention where they are not `qk_channels` and `v_channels`. With `recompute` a layer keeps what goes
    into it and nothing else for the way back, and computes the rest again there: less memory, the same results.
    """

    inputs: int
    latents: int
    channels: int
    blocks: int = 1
    layers: Count = 6
    cross_heads: int = 1
    self_heads: int = 8
    qk_channels: int | None = None
    v_channels: int | None = None
    attend_in: Literal["kv", "q"] = "kv"
    cross_widening: int = 1
    self_widening: int = 1
    query_residual: bool = True
    cross_attends: int = 1
    shared_cross: Sharing = "later"
    shared_blocks: Sharing = "all"
    self_qk_channels: int | None = None
    self_v_channels: int | None = None
    conventions: Conventions = DEEPMIND
    recompute: bool = False

    def __post_init__(self) -> None:
        for heads in (self.cross_heads, self.self_heads):
            if heads < 1 or (self.channels % heads and not self.conventions.free_widths):
                raise InputError(f"channels ({self.channels}) must be divisible by the number of heads ({heads})")
        if self.blocks * self.layers > _MOST_LAYERS:
            raise InputError(f"{self.blocks} blocks of {self.layers} layers are more than {_MOST_LAYERS:,} layers")
        if not 1 <= self.cross_attends <= self.blocks:
            raise InputError(
                f"cross_attends ({self.cross_attends}) must be at least 1 and at most blocks ({self.blocks})"
            )

    @part
    def cross_attention(self) -> CrossAttention:
        """The layer in which latents attend to inputs."""
        return CrossAttention(
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

    @part
    def self_attention(self) -> SelfAttention:
        """The layer in which latents attend to each other."""
        return SelfAttention(
            self.channels,
            self.self_heads,
            self.qk_channels if self.self_qk_channels is None else self.self_qk_channels,
            self.v_channels if self.self_v_channels is None else self.self_v_channels,
            self.self_widening,
            self.conventions,
        )

    def parameters(self) -> Tree:
        cross = self.cross_attention.parameters()
        block = [self.self_attention.parameters() for _ in range(self.layers)]
        later_crosses = own_weights(self.cross_attends, self.shared_cross) - 1
        later_blocks = own_weights(self.blocks, self.shared_blocks) - 1
        return {
            "latents": Parameter((self.latents, self.channels), truncated_normal(0.02)),
            "cross_attention": cross,
            "block": block,
            "later_cross_attentions": [cross] * later_crosses,
            "later_blocks": [block] * later_blocks,
        }

    def apply(self, p: Tree, inputs: Any, *, mask: Array | None = None, bias: Any = None, latents: Any = None) -> Any:
        """inputs (B, M, C) -> latents (B, N, D).

        mask (B, M): True where an input is real. bias: added to the cross-attentions' logits, broadcastable to
        (B, heads, N, M). latents (B, N, D): used in place of the trained initial ones.
        """
        inputs, mask = self._checked(inputs, mask)
        with scope("encoder"):
            x = self._initial(p, inputs, latents)
            for b in range(self.blocks):
                if b < self.cross_attends:
                    x = self.cross_attended(p, b, x, inputs, mask, bias)
                x = self.block(p, b, x)
            return point("", x)

    def _checked(self, inputs: Any, mask: Array | None) -> tuple[Any, Array | None]:
        """The inputs without what is not finite in unused slots, and the mask as (B, 1, M)."""
        if len(inputs.shape) != 3 or inputs.shape[-1] != self.inputs:
            raise InputError(f"inputs must be (batch, positions, {self.inputs}), got {tuple(inputs.shape)}")
        if mask is None:
            return inputs, None
        mask = check_mask(mask, tuple(inputs.shape[:2]), "mask")
        return finite_where_unused(inputs, mask, self.conventions.masked_rows), mask[:, None, :]

    def _initial(self, p: Tree, inputs: Any, latents: Any) -> Any:
        """The latents at the start, (B, N, D)."""
        if latents is None:
            latents = ops.broadcast_to(p["latents"], shape=(inputs.shape[0], self.latents, self.channels))
        return point("latents", latents)

    def cross_attention_of(self, block: int) -> CrossAttention:
        """The layer before this block."""
        return self.cross_attention

    def cross_attended(self, p: Tree, b: int, x: Any, inputs: Any, mask: Array | None, bias: Any) -> Any:
        """Latents x (B, N, D) after the cross-attention before block b; inputs (B, M, C), mask (B, 1, M)."""
        weights = [p["cross_attention"], *p["later_cross_attentions"]][weights_of(b, self.shared_cross)]
        layer = self.cross_attention_of(b)

        def attend(weights: Tree, x: Any, inputs: Any, bias: Any) -> Any:
            return layer.apply(weights, x, inputs, mask=mask, bias=bias)

        with scope("cross_attention" if self.cross_attends == 1 else f"cross_attention.{b}"):
            return self._kept(attend)(weights, x, inputs, bias)

    def block(self, p: Tree, b: int, x: Any) -> Any:
        """Latents x (B, N, D) after the self-attentions of block b."""
        for i, weights in enumerate([p["block"], *p["later_blocks"]][weights_of(b, self.shared_blocks)]):
            with scope(f"blocks.{b}.{i}"):
                x = self._kept(self.self_attention.apply)(weights, x)
        return x

    def _kept(self, layer: Callable[..., Any]) -> Callable[..., Any]:
        return checkpoint(layer) if self.recompute else layer


def own_weights(repetitions: int, shared: Sharing) -> int:
    """The number of different weights among so many repetitions."""
    return {"all": 1, "later": min(repetitions, 2), "none": repetitions}[shared]


def weights_of(repetition: int, shared: Sharing) -> int:
    """The weights that a repetition uses."""
    return {"all": 0, "later": min(repetition, 1), "none": repetition}[shared]
