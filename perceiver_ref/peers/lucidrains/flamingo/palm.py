"""flamingo-pytorch's FlamingoPaLM: a language model whose tokens see media through gated cross-attention.

Read off its source: blocks of attention and feed-forward side by side (PaLM, Chowdhery et al. 2022, arXiv 2204.02311,
section 2) with rotary positions, one head of keys and values, and norms without offset; a gated block after blocks 0,
every, 2 every, ...; logits by the embedding's weights. The image encoder is not part of it: `images` and `videos` are
what the encoder makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....autograd import ops
from ....autograd.backend import xp
from ....autograd.core import array_of
from ....autograd.tree import Tree
from ....errors import InputError
from ....models.call import Call
from ....models.constraints import Count
from ....models.conventions import FLAMINGO_DIALECTS
from ....models.flamingo import GatedCrossAttention, PerceiverResampler, media_mask, preceding
from ....models.layers import LayerNorm, Linear
from ....models.module import Module, Parameter, ones, part, truncated_normal
from ....models.rotary import rotate
from ....models.tracing import asked_point, point, scope
from ...base import Arguments, Given, Option, Outputs, Rebuilt, check_axes, options, positive, read_call
from ...names import Table, View, below, bind, inside, same, transposed
from .parts import GATED_NAMES, GATED_POINTS, RESAMPLER_NAMES, RESAMPLER_POINTS, SIZE, one_for_all


@dataclass(frozen=True)
class ParallelBlock(Module):
    """x + attention(norm(x)) + mlp(norm(x)): x (B, L, D) -> the same shape; attention is causal.

    `frequencies`, radians a position of each pair of channels, are an array beside the weights, as the peer keeps them.
    """

    channels: int
    heads: int
    head_channels: int
    hidden: int

    def _widths(self) -> dict[str, int]:
        d = self.head_channels
        return {"query": self.heads * d, "key": d, "value": d, "hidden": self.hidden, "gate": self.hidden}

    @part
    def norm(self) -> LayerNorm:
        """The norm before both branches."""
        return LayerNorm(self.channels)

    def parameters(self) -> Tree:
        into = {name: Linear(self.channels, n, False).parameters() for name, n in self._widths().items()}
        return {
            "norm": self.norm.parameters(),
            **into,
            "frequencies": Parameter((self.head_channels // 2,), ones),
            "attended": Linear(self.heads * self.head_channels, self.channels, False).parameters(),
            "output": Linear(self.hidden, self.channels, False).parameters(),
        }

    def apply(self, p: Tree, x: Any) -> Any:
        """x (B, L, D) -> (B, L, D)."""
        (b, n, _), h, d = x.shape, self.heads, self.head_channels
        normed = point("norm", self.norm.apply(p["norm"], x))
        parts = [ops.linear(normed, p[name]["weight"], None) for name in self._widths()]
        asked_point("projections", lambda: ops.concatenate(parts, axis=-1))
        q, k, v, hidden, gate = parts
        frequencies = array_of(p["frequencies"])
        library = xp(frequencies)
        angles = point("angles", library.arange(n, dtype=frequencies.dtype)[:, None] * library.tile(frequencies, 2))
        q = ops.transpose(ops.reshape(q, shape=(b, n, h, d)), axes=(0, 2, 1, 3))
        k, v = (ops.reshape(y, shape=(b, 1, n, d)) for y in (k, v))
        q, k = (rotate(y, library.cos(angles), library.sin(angles), "half_split") for y in (q, k))
        mixed = ops.attention(q, k, v, mask=library.tri(n, dtype=bool))
        mixed = ops.reshape(ops.transpose(mixed, axes=(0, 2, 1, 3)), shape=(b, n, h * d))
        active = point("mlp.activation", ops.multiply(ops.silu(gate), hidden))
        out = point("mlp", ops.linear(active, p["output"]["weight"], None))
        attended = point("attention", ops.linear(mixed, p["attended"]["weight"], None))
        return point("", ops.add(x, point("branches", ops.add(attended, out))))


@dataclass(frozen=True)
class FlamingoPaLM(Module):
    """text (B, L) of token ids and media (B, M, S, D) -> logits (B, L, tokens); the media token announces a medium."""

    tokens: int
    layers: Count
    every: int
    media_token: Count
    immediate: bool
    frames: int | None
    block: ParallelBlock
    gated: GatedCrossAttention
    resampler: PerceiverResampler

    @part
    def norm(self) -> LayerNorm:
        """The norm before the logits."""
        return LayerNorm(self.block.channels)

    def parameters(self) -> Tree:
        d = self.block.channels
        frames = {} if self.frames is None else {"frame_embedding": Parameter((self.frames, d), truncated_normal(0.02))}
        return {
            "token_embedding": Parameter((self.tokens, d), truncated_normal(0.02)),
            **frames,
            "resampler": self.resampler.parameters(),
            "blocks": [self.block.parameters() for _ in range(self.layers)],
            "gated": {str(i): self.gated.parameters() for i in range(0, self.layers, self.every)},
            "norm": self.norm.parameters(),
        }

    def apply(self, p: Tree, text: Any, media: Any = None) -> Any:
        """text (B, L) of whole numbers, media (B, M, S, D) or None for text alone -> (B, L, tokens)."""
        x, ids, mask = ops.take(p["token_embedding"], array_of(text), axis=0), array_of(text), None
        point("embedding", x)
        if media is not None:
            media = self.resampler.apply(p["resampler"], media)
            which: Any = "immediate" if self.immediate else "all"
            phi = preceding(ids == self.media_token)
            mask = media_mask(phi, media=media.shape[1], tokens=media.shape[2], which=which)
        for i, p_block in enumerate(p["blocks"]):
            with scope(f"blocks.{i}"):
                x = self.block.apply(p_block, x)
            if media is not None and i % self.every == 0:
                with scope(f"gated.{i}"):
                    x = self.gated.apply(p["gated"][str(i)], x, media, mask=mask)
        x = point("norm", self.norm.apply(p["norm"], x))
        return point("logits", ops.matmul(x, ops.transpose(p["token_embedding"], axes=(1, 0))))


def _rows(start: int, count: int) -> View:
    """A linear map (inputs, count) that is some rows of a PyTorch weight (outputs, inputs)."""
    return lambda array: array[start : start + count].T


_PLAIN_NORM: Table = {"scale": ("gamma", same), "offset": ("beta", same)}


def _names(block: ParallelBlock) -> Table:
    fused, start = {}, 0
    for name, width in block._widths().items():
        fused[f"{name}/weight"] = ("fused_attn_ff_proj.weight", _rows(start, width))
        start += width
    return {
        "token_embedding": ("token_emb.weight", same),
        "frame_embedding": ("video_frame_pos_emb", same),
        "resampler": ("perceiver_resampler", RESAMPLER_NAMES),
        "blocks/{i}": (
            "layers.{i}.0.fn",
            {
                "norm": ("norm", _PLAIN_NORM),
                **fused,
                "frequencies": ("rotary_emb.inv_freq", same),
                "attended/weight": ("attn_out.weight", transposed),
                "output/weight": ("ff_out.1.weight", transposed),
            },
        ),
        "gated/{i}": ("layers.{i}.1", GATED_NAMES),
        "norm": ("to_logits.0", _PLAIN_NORM),
    }


_POINTS = [
    ("token_emb", "embedding"),
    ("perceiver_resampler", "resampler"),
    *below("perceiver_resampler", "", RESAMPLER_POINTS),
    (r"layers\.(\d+)\.0", r"blocks.\1"),
    (r"layers\.(\d+)\.0\.fn", r"blocks.\1.branches"),
    (r"layers\.(\d+)\.0\.fn\.norm", r"blocks.\1.norm"),
    (r"layers\.(\d+)\.0\.fn\.rotary_emb", r"blocks.\1.angles"),
    (r"layers\.(\d+)\.0\.fn\.fused_attn_ff_proj", r"blocks.\1.projections"),
    (r"layers\.(\d+)\.0\.fn\.attn_out", r"blocks.\1.attention"),
    (r"layers\.(\d+)\.0\.fn\.ff_out\.0", r"blocks.\1.mlp.activation"),
    (r"layers\.(\d+)\.0\.fn\.ff_out", r"blocks.\1.mlp"),
    (r"layers\.(\d+)\.0\.fn\.ff_out\.1", r"blocks.\1.mlp"),
    (r"layers\.(\d+)\.1", r"gated.\1"),
    *inside(r"layers\.(\d+)\.1", r"gated.\1", GATED_POINTS),
    (r"to_logits\.0", "norm"),
    (r"to_logits|to_logits\.1", "logits"),
]
_CONFIG = {
    "dim": SIZE,
    "num_tokens": SIZE,
    "depth": SIZE,
    "dim_head": 64,
    "heads": 8,
    "ff_mult": 4,
    "media_token_id": 3,
    "cross_attn_every": 3,
    "perceiver_num_latents": 64,
    "perceiver_depth": 2,
    "max_video_frames": Option(int),
    "only_attend_immediate_media": True,
}


def palm(given: Given) -> Rebuilt:
    """FlamingoPaLM; `img_encoder` among its options is left out of account."""
    chosen = options("FlamingoPaLM", given.config, _CONFIG, frozenset({"img_encoder"}))
    dim, heads, width, dialect = chosen["dim"], chosen["heads"], chosen["dim_head"], "lucidrains-flamingo"
    if width % 2:
        raise InputError(f"dim_head must be even, since rotary embedding turns pairs of channels; got {width}")
    conventions = FLAMINGO_DIALECTS[dialect]
    model = FlamingoPaLM(
        tokens=chosen["num_tokens"],
        layers=chosen["depth"],
        every=positive("cross_attn_every", chosen["cross_attn_every"]),
        media_token=chosen["media_token_id"],
        immediate=chosen["only_attend_immediate_media"],
        frames=chosen["max_video_frames"],
        block=ParallelBlock(dim, positive("heads", heads), width, dim * chosen["ff_mult"]),
        gated=GatedCrossAttention(dim, dim, heads, width, 4, conventions=conventions),
        resampler=PerceiverResampler(
            dim,
            chosen["perceiver_num_latents"],
            chosen["perceiver_depth"],
            heads,
            width,
            media=4,
            conventions=conventions,
        ),
    )

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        values, _ = read_call("FlamingoPaLM", arguments, called, {"text", "images", "videos"}, {}, ["text"])
        text, media = values["text"], values.get("images")
        check_axes("text", text, "batch, tokens")
        if media is not None:
            check_axes("images", media, "batch, media, tokens, dim", "batch, tokens, dim")
        if "videos" in values:
            media = _with_frames(params, values["videos"], model)
        if media is not None and len(media.shape) == 3:
            media = ops.reshape(media, shape=(media.shape[0], 1, *media.shape[1:]))
        return {"out": model.apply(params, text, media)}

    tied = ("to_logits.1.weight",)  # token_emb.weight once more
    return Rebuilt(model, bind(model.parameters(), _names(model.block)), run, _POINTS, ignored=tied)


def _with_frames(params: Tree, videos: Any, model: FlamingoPaLM) -> Any:
    """videos (B, M, T, S, D) with the embedding of each frame -> (B, M, T S, D)."""
    check_axes("videos", videos, "batch, media, frames, tokens, dim")
    b, m, t, s, d = videos.shape
    if model.frames is None or t > model.frames > 1:
        raise InputError(f"videos of {t} frames need max_video_frames, which is {model.frames}")
    frames = one_for_all(params["frame_embedding"], t)[:t]
    return ops.reshape(ops.add(videos, ops.reshape(frames, shape=(t, 1, d))), shape=(b, m, t * s, d))
