"""Chatterbox (chatterbox-tts 0.1.7, `models/t3/modules/perceiver.py`): its block of attention, and its Perceiver.

One block, whose norm serves queries and keys alike, is called twice with the same weights: learned queries attend to
the input, then to each other. Quirks of the block: with `flash_attention` (the default) `scale` is ignored; without it
the sums run over positions, so that the channels of a head attend to each other; a table of relative positions is never
used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..autograd import ops
from ..autograd.backend import Array
from ..autograd.core import array_of
from ..autograd.tree import Tree
from ..errors import InputError
from ..models.attention import Attention
from ..models.call import Call
from ..models.conventions import POOLER_DIALECTS, Conventions
from ..models.layers import Norm, norm
from ..models.module import Module, Parameter, part, truncated_normal, variant
from ..models.tracing import point, scope
from .base import Arguments, Given, Option, Outputs, Peer, Rebuilt, check_axes, options, positive, read_call
from .ip_adapter import only
from .masks import check_broadcast, fused, spoilt
from .names import LINEAR, NORM, Rows, Table, bind, inside, same

_BLOCK: dict[str, Any] = {
    "channels": Option(int, required=True),
    "num_heads": 1,
    "num_head_channels": -1,
    "relative_pos_embeddings": False,
    "flash_attention": True,
    "scale": Option(float),
}
_PERCEIVER = {
    "pre_attention_query_token": 32,
    "pre_attention_query_size": 1024,
    "embedding_dim": 1024,
    "num_attn_heads": 4,
}
_BUCKETS = 32
_NAMES: Table = {
    "relative_positions": ("relative_pos_embeddings.relative_attention_bias.weight", same),
    "norm": ("norm", NORM),
    "attention": (
        "",
        {
            "query": ("to_q", LINEAR),
            "key": ("to_k", LINEAR),
            "value": ("to_v", LINEAR),
            "output": ("proj_out", LINEAR),
        },
    ),
}
_PARTS = (
    ("norm", "norm"),
    ("to_q", "attention.query"),
    ("to_k", "attention.key"),
    ("to_v", "attention.value"),
    ("attention", "attention.mixed"),
    (r"attention\.dropout", "attention.weights"),
    ("proj_out", "attention"),
)
_POINTS: Rows = [
    row for theirs, ours in _PARTS for row in ((f"{theirs}(?:@0)?", ours), (rf"{theirs}@(\d+)", rf"{ours}@\1"))
]


class ChannelAttention(Attention):
    """The quirk of the block without `flash_attention`: within each head channels attend to channels.

        o[l, t] = sum_s softmax_s(scale sum_m q[m, t] k[m, s]) v[l, s]          l, m positions; t, s channels

    The inputs must be equally long.
    """

    def _mixed(self, q: Any, k: Any, v: Any, mask: Array | None, bias: Any) -> Any:
        q, k, v = (_turned(x) for x in (q, k, v))
        return _turned(super()._mixed(q, k, v, mask, bias))


def _turned(x: Any) -> Any:
    """(B, H, L, d) -> (B, H, d, L)."""
    return ops.transpose(x, axes=(0, 1, 3, 2))


@dataclass(frozen=True)
class AttentionBlock(Module):
    """x + attention(norm(x), norm(z)), with one norm for both.

    `by_channels`: see `ChannelAttention`, which alone takes `scale`. `unused`: the width of a table that nothing reads.
    """

    channels: int
    heads: int
    conventions: Conventions = POOLER_DIALECTS["chatterbox"]
    by_channels: bool = False
    scale: float | None = None
    unused: int | None = None

    @part
    def norm(self) -> Norm:
        """The norm of queries and of what is attended to."""
        return norm(self.channels, self.conventions)

    @part
    def attention(self) -> Attention:
        """The attention."""
        d = self.channels
        made = Attention(d, d, d, d, d, self.heads, self.conventions)
        if not self.by_channels:
            return made
        scale = (d // self.heads) ** -0.5 if self.scale is None else self.scale
        return variant(made.with_fields(scale=scale), ChannelAttention)

    def parameters(self) -> Tree:
        made = super().parameters()
        if self.unused is not None:
            made["relative_positions"] = Parameter((_BUCKETS, self.unused), truncated_normal(1.0))
        return made

    def apply(self, p: Tree, x: Any, z: Any, **masks: Any) -> Any:
        """x (B, N, D), z (B, M, D) -> (B, N, D). `masks`: as in `Attention.apply`."""
        q, kv = (point("norm", self.norm.apply(p["norm"], given)) for given in (x, z))
        return point("", ops.add(x, self.attention.apply(p["attention"], q, kv, **masks)))


@dataclass(frozen=True)
class TwicePerceiver(Module):
    """Learned queries attend to the input, then to each other, by one block: z = block(latents, h); block(z, z)."""

    latents: int
    block: AttentionBlock
    arguments: ClassVar[tuple[str, ...]] = ("h",)

    def parameters(self) -> Tree:
        table = Parameter((self.latents, self.block.channels), truncated_normal(0.02))
        return {"latents": table, "block": self.block.parameters()}

    def apply(self, p: Tree, h: Any) -> Any:
        """h (B, M, D) -> (B, N, D)."""
        z = ops.broadcast_to(p["latents"], shape=(h.shape[0], *p["latents"].shape))
        with scope("block"):
            z = self.block.apply(p["block"], z, h)
            return self.block.apply(p["block"], z, z)


def _block(given: Given) -> Rebuilt:
    chosen = options("AttentionBlock2", given.config, _BLOCK, frozenset({"dropout_rate"}))
    channels, heads, wide = positive("channels", chosen["channels"]), chosen["num_heads"], chosen["num_head_channels"]
    if wide != -1:
        if wide < 1 or channels % wide:
            raise InputError(f"channels ({channels}) must be divisible by num_head_channels ({wide})")
        heads = channels // wide
    flash = chosen["flash_attention"]
    model = AttentionBlock(
        channels,
        heads,
        by_channels=not flash,
        scale=chosen["scale"],
        unused=chosen["num_heads"] if chosen["relative_pos_embeddings"] else None,
    )

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, _ = read_call("AttentionBlock2", arguments, called, {"x1", "x2", "mask"}, {}, ["x1", "x2"])
        x1, x2, mask = values["x1"], values["x2"], values.get("mask")
        for name, x in (("x1", x1), ("x2", x2)):
            check_axes(name, x, "batch, tokens, channels")
        if not flash and x1.shape[1] != x2.shape[1]:
            raise InputError(
                f"without flash_attention x1 and x2 must be equally long, got {x1.shape[1]} and {x2.shape[1]} tokens"
            )
        return {"out": model.apply(params, x1, x2, **({} if mask is None else _masks(mask, x1, x2, heads, flash)))}

    return Rebuilt(model, bind(model.parameters(), _NAMES), run, [*_POINTS, ("", "")])


def _masks(mask: Any, x1: Any, x2: Any, heads: int, flash: bool) -> dict[str, Any]:
    """The mask of the flash attention, or of channels: there 0 of any dtype masks, and a row of zeros is NaN."""
    batch, width = x1.shape[0], x1.shape[2] // heads
    if flash:
        shape = (batch, heads, x1.shape[1], x2.shape[1])
        return fused("mask", mask, shape, "batch, heads, tokens of x1, tokens of x2")
    check_broadcast("mask", mask, (batch, heads, width, width), "batch, heads, head channels, head channels")
    attend, bias = spoilt(array_of(mask) != 0, None, array_of(x1).dtype)
    return {"head_mask": attend, "bias": bias}


def _perceiver(given: Given) -> Rebuilt:
    """Perceiver: `pre_attention_query_size` must be `embedding_dim`."""
    chosen = options("Perceiver", given.config, _PERCEIVER)
    width, size = chosen["embedding_dim"], chosen["pre_attention_query_size"]
    if size != width:
        raise InputError(f"pre_attention_query_size ({size}) must equal embedding_dim ({width})")
    block = AttentionBlock(positive("embedding_dim", width), chosen["num_attn_heads"])
    model = TwicePerceiver(chosen["pre_attention_query_token"], block)

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, _ = read_call("Perceiver", arguments, called, {"h"}, {}, ["h"])
        check_axes("h", values["h"], "batch, tokens, channels")
        return {"out": model.apply(params, values["h"])}

    names: Table = {"latents": ("pre_attention_query", only), "block": ("attn", _NAMES)}
    points: Rows = [*inside("attn", "block", _POINTS), ("attn(?:@0)?", "block"), (r"attn@(\d+)", r"block@\1")]
    return Rebuilt(model, bind(model.parameters(), names), run, points)


PEER = Peer("chatterbox", {"AttentionBlock2": _block, "Perceiver": _perceiver})
